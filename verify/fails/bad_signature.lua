-- bad_signature.lua:2: kernel 'k': signature 'x f32[d]': expected 'inputs -> outputs'
kernel "k" { sig = "x f32[d]", body = function() end, map = schedules.rows }

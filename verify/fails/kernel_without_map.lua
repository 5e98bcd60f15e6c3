-- kernel_without_map.lua:2: kernel 'k' needs a map
kernel "k" { sig = "x: f32[d] -> y: f32[d]", body = function() end }

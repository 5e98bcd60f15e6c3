-- kernel_without_body.lua:2: kernel 'k' needs a body
kernel "k" { sig = "x: f32[d] -> y: f32[d]", map = schedules.rows }

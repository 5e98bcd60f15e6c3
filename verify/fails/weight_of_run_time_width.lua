-- axis 'd' of 'w' is known at run time only; of formatted arrays such an axis comes first
kernel "k" {
  sig = "w: W[n,d?] -> y: f32[n]",
  body = function(a) for r in each("row", a.n) do a.y[r] = a.w[r][0] end end,
  map = schedules.rows,
}

-- not enough memory
local t = ("x"):rep(2 ^ 30)
kernel(t)

-- syntax_error.lua:3: 
kernel "k" {
  sig = = "x",
}

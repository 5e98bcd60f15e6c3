-- endless_loop_outside.lua:2: ran over its budget of
while true do end

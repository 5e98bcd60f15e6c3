-- monoid_without_merge.lua:2: monoid { zero = function, merge = function [, many = function] }
local m = monoid { zero = function() return { v = 0 } end }

-- require.lua:2: attempt to call a nil value (global 'require')
require "dsl.expr"

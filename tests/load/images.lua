-- wrk -t2 -c16 -d30s --timeout 60s -s tests/load/images.lua http://127.0.0.1:8080
-- Small pictures, each with a seed of its own. A full queue answers 429, which is counted, not an error.
dofile((debug.getinfo(1, "S").source:match("^@(.*/)") or "./") .. "count.lua")
wrk.method = "POST"
wrk.headers["Content-Type"] = "application/json"
local seed = 0
function request()
   seed = seed + 1
   return wrk.format(nil, "/v1/images/generations", nil,
      string.format('{"prompt":"red apple","steps":4,"size":"64x64","seed":%d}', seed))
end

-- wrk -t2 -c64 -d10s -s tests/load/health.lua http://127.0.0.1:8080
-- What probes and dashboards ask for: /health and /v1/models in turn. For the highest rate leave the script
-- out, which costs wrk more than the answer costs the server: wrk -t2 -c64 -d10s http://127.0.0.1:8080/health
dofile((debug.getinfo(1, "S").source:match("^@(.*/)") or "./") .. "count.lua")
local n = 0
function request()
   n = n + 1
   return wrk.format("GET", n % 2 == 0 and "/health" or "/v1/models")
end

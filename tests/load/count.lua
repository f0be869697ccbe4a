-- count.lua: what the other scripts share: answers by status, and what went wrong with sockets.
-- Ends wrk's report with lines for people and for tests: STATUS 200 1234, ERRORS connect read write timeout.
-- STATUS -1 counts refusals (429) without Retry-After; there should be none.
local threads = {}
function setup(thread) table.insert(threads, thread) end
function init(args)
   counts = {}
   if os.getenv("ANNEAL_API_KEY") then wrk.headers["Authorization"] = "Bearer " .. os.getenv("ANNEAL_API_KEY") end
end
function response(status, headers, body)
   counts[status] = (counts[status] or 0) + 1
   if status == 429 and not headers["Retry-After"] then counts[-1] = (counts[-1] or 0) + 1 end
end
function done(summary, latency, requests)
   local all = {}
   for _, t in ipairs(threads) do
      for k, v in pairs(t:get("counts")) do all[k] = (all[k] or 0) + v end
   end
   for k, v in pairs(all) do io.write(string.format("STATUS %d %d\n", k, v)) end
   local e = summary.errors
   io.write(string.format("ERRORS %d %d %d %d\n", e.connect, e.read, e.write, e.timeout))
   io.write(string.format("RATE %.0f P50_MS %.3f P99_MS %.3f\n", summary.requests / summary.duration * 1e6,
      latency:percentile(50) / 1e3, latency:percentile(99) / 1e3))
end

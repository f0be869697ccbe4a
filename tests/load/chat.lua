-- wrk -t2 -c16 -d30s --timeout 60s -s tests/load/chat.lua http://127.0.0.1:8080
-- Short streamed answers to questions that differ, so that no prefix cache answers.
dofile((debug.getinfo(1, "S").source:match("^@(.*/)") or "./") .. "count.lua")
wrk.method = "POST"
wrk.headers["Content-Type"] = "application/json"
local n = 0
function request()
   n = n + 1
   return wrk.format(nil, "/v1/chat/completions", nil, string.format(
      '{"messages":[{"role":"user","content":"%d: why is the sky blue?"}],"max_tokens":16,"stream":true,"seed":%d}', n, n))
end

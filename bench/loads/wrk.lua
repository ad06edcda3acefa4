-- Arguments: KEY=VALUE words.
--   cookies=FILE  one Cookie header value a line. Several lines: requests take them in turn; one line:
--                 the same bytes each time; none: no Cookie.
--   traced=1      each request carries a traceparent of its own (W3C Trace Context).
--   made=N        N users whose cookies are made while sending, instead of the file.
--   name=NAME     of the cookie, for made.
--   method=M      of the requests.
--   upload=N      length of the request body in bytes.
-- Prints one line "RESULT {json}" at the end; times in microseconds.

local TRACE = "00-" .. string.rep("0", 32) .. "-0000000000000000-01"
local ID = string.rep("0", 32)

local function cut(text, mark)
   local from, to = string.find(text, mark, 1, true)
   return {string.sub(text, 1, from - 1), string.sub(text, to + 1)}
end

function init(args)
   local options = {}
   for _, word in ipairs(args) do
      local key, value = string.match(word, "^(%w+)=(.*)$")
      options[key] = value
   end
   if options.method then wrk.method = options.method end
   if options.upload then wrk.body = string.rep("x", tonumber(options.upload)) end

   local next = 0
   if options.made then
      local count = tonumber(options.made)
      wrk.headers["Cookie"] = options.name .. "=" .. ID
      local part = cut(wrk.format(), ID)
      request = function()
         next = (next + 1) % count
         local id = string.format("%08x%08x%016x", (next * 2654435761) % 4294967296, next, next)
         return part[1] .. id .. part[2]
      end
      return
   end

   local cookies = {}
   for line in io.lines(options.cookies) do cookies[#cookies + 1] = line end
   local count = #cookies
   if count == 1 then wrk.headers["Cookie"] = cookies[1] end
   if options.traced then
      wrk.headers["traceparent"] = TRACE
      local parts = {}
      for i, cookie in ipairs(cookies) do
         wrk.headers["Cookie"] = cookie
         parts[i] = cut(wrk.format(), TRACE)
      end
      request = function()
         next = next + 1
         local part = parts[next % count + 1]
         return part[1] .. string.format("00-%032x-%016x-01", next, next) .. part[2]
      end
      return
   end
   if count < 2 then return end
   local requests = {}
   for i, cookie in ipairs(cookies) do
      wrk.headers["Cookie"] = cookie
      requests[i] = wrk.format()
   end
   request = function()
      next = next % count + 1
      return requests[next]
   end
end

function done(summary, latency, requests)
   local e = summary.errors
   io.write(string.format(
      'RESULT {"requests": %d, "bytes": %d, "duration_us": %d, "p50_us": %d, "p99_us": %d, ' ..
      '"p999_us": %d, "max_us": %d, "connect": %d, "read": %d, "write": %d, "status": %d, ' ..
      '"timeout": %d}\n',
      summary.requests, summary.bytes, summary.duration, latency:percentile(50),
      latency:percentile(99), latency:percentile(99.9), latency.max,
      e.connect, e.read, e.write, e.status, e.timeout))
end

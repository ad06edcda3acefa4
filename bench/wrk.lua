-- Arguments: a file with one Cookie header value a line. Several lines: requests take them in
-- turn; one line: the same bytes each time; none: no Cookie. With a second argument "traced" each
-- request carries a traceparent of its own (W3C Trace Context), so that no two have the same bytes.
-- Prints one line "RESULT {json}" at the end; times in microseconds.

function init(args)
   local cookies = {}
   for line in io.lines(args[1]) do cookies[#cookies + 1] = line end
   if #cookies == 1 then wrk.headers["Cookie"] = cookies[1] end
   if args[2] == "traced" then
      local mark = "00-" .. string.rep("0", 32) .. "-0000000000000000-01"
      wrk.headers["traceparent"] = mark
      local parts, count, next = {}, #cookies, 0
      for i, cookie in ipairs(cookies) do
         wrk.headers["Cookie"] = cookie
         local text = wrk.format()
         local from, to = string.find(text, mark, 1, true)
         parts[i] = {string.sub(text, 1, from - 1), string.sub(text, to + 1)}
      end
      request = function()
         next = next + 1
         local part = parts[next % count + 1]
         return part[1] .. string.format("00-%032x-%016x-01", next, next) .. part[2]
      end
      return
   end
   if #cookies < 2 then return end

   local requests, count, next = {}, #cookies, 0
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

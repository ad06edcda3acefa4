-- Arguments: a file with one Cookie header value a line. Several lines: requests take them in
-- turn; one line: the same bytes each time; none: no Cookie.
-- Prints one line "RESULT {json}" at the end; times in microseconds.

function init(args)
   local cookies = {}
   for line in io.lines(args[1]) do cookies[#cookies + 1] = line end
   if #cookies == 1 then wrk.headers["Cookie"] = cookies[1] end
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

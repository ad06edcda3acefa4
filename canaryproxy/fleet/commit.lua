-- Replace the document, if it is still the one that the new one was made from.
-- KEYS: document (hash), lease. A step names the lease's token, and is taken only from the replica that holds it.
local document, lease = KEYS[1], KEYS[2]
local base, me, token, seen_term = ARGV[1], ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4])
local act, version, settings, marker, text = ARGV[5], ARGV[6], ARGV[7], ARGV[8], ARGV[9]
local channel = ARGV[10]

local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
local found = redis.call('HMGET', document, 'act', 'term', 'text')
if (found[1] or '') ~= base then return {0, found[3] or ''} end
local term = tonumber(found[2] or '0')
if token > 0 and (redis.call('GET', lease) ~= me or term ~= token) then
  return {-1, found[3] or ''}
end
redis.call('HSET', document, 'act', act, 'version', version, 'settings', settings, 'marker', marker,
           'text', text, 'at', now, 'term', math.max(term, seen_term), 'progress', '')
redis.call('PUBLISH', channel, act)
return {1, ''}

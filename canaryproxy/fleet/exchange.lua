-- One exchange of one replica: report its counts and records, ask for the lease, return the sums, a newer document
-- and what all replicas recorded since.
-- KEYS: document (hash), lease, members (sorted set), counts of this replica, sums, records (stream), leaving (hash),
-- reports (hash), behind (hash).
-- ARGV: names below, in this order. Redis runs a script as one: nothing happens in between.
local document, lease, members, counts, sums, log = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5], KEYS[6]
local leaving, reports, behind = KEYS[7], KEYS[8], KEYS[9]
local me, settings, before = ARGV[1], ARGV[2], ARGV[3]
local lease_ms, keep_ms = tonumber(ARGV[4]), tonumber(ARGV[5])
local known, marker, seen_term = ARGV[6], ARGV[7], tonumber(ARGV[8])
local progress, row = ARGV[9], ARGV[10]
local entry, is_idle, keep_each, log_ms = ARGV[11], ARGV[12] == '1', tonumber(ARGV[13]), tonumber(ARGV[14])
local cursor, most = ARGV[15], tonumber(ARGV[16])
local mine = ARGV[17] -- "stable canary"; empty: unchanged, none
local report = ARGV[18] -- empty: it has nothing to tell
local TICK_MS = 90 -- a little less than the usual interval
local HEARD_MS = 10000 -- as in redis_store.py

local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
local d = redis.call('HMGET', document, 'act', 'settings', 'marker', 'term', 'at', 'progress',
                     'tick', 'ticked')
local act, in_force = d[1] or '', d[2] or ''
local newest = tonumber(d[4] or '0')
local term = math.max(newest, seen_term) -- the store may have lost its last writes

-- The members. A member is "name settings"; one that was silent for a lease's time is gone.
redis.call('ZADD', members, now, me .. ' ' .. settings)
if before ~= '' then redis.call('ZREM', members, me .. ' ' .. before) end
redis.call('ZREMRANGEBYSCORE', members, '-inf', now - lease_ms)

local agree, go_by = 0, 0
local function count_settings()
  for _, member in ipairs(redis.call('ZRANGE', members, 0, -1)) do
    local theirs = string.match(member, ' (%S*)$')
    if theirs == settings then agree = agree + 1 end
    if theirs == in_force then go_by = go_by + 1 end
  end
end

-- The leader: a replica with the settings in force, or with other ones if no replica has those any more.
local holder = redis.call('GET', lease) or ''
if act ~= '' and (holder == '' or holder == me) then
  count_settings()
  if settings == in_force or go_by == 0 then
    if holder == '' then term = term + 1 end
    if term > newest then redis.call('HSET', document, 'term', term) end
    redis.call('SET', lease, me, 'PX', lease_ms)
    holder = me
  elseif holder == me then
    redis.call('DEL', lease)
    holder = ''
  end
end
if holder == me and progress ~= '' then
  redis.call('HSET', document, 'progress', progress)
  d[6] = progress
end

-- Counts: the growth of the row since its last report, if it was counted under the document in force.
local last = redis.call('GET', counts)
redis.call('SET', counts, row, 'PX', keep_ms)
local total = redis.call('GET', sums) or ''
if last and act ~= '' and marker == d[3] then
  local old, have = {}, {}
  for part in string.gmatch(last, '%S+') do old[#old + 1] = tonumber(part) end
  for part in string.gmatch(total, '%S+') do have[#have + 1] = tonumber(part) end
  local new, at, grows, falls = {}, 0, false, false
  for part in string.gmatch(row, '%S+') do
    at = at + 1
    local gain = tonumber(part) - (old[at] or 0)
    if gain < 0 then falls = true elseif gain > 0 then grows = true end
    new[at] = string.format('%.0f', (have[at] or 0) + gain)
  end
  if grows and not falls and at == #old then
    total = table.concat(new, ' ')
    redis.call('SET', sums, total, 'PX', 86400000)
  end
end

-- Records: an entry of the log, if they were made under the document in force. The first entry that comes
-- 90 ms after the last tick was closed closes the next one; a clock that was set back closes it too.
local replicas = redis.call('ZCARD', members)
if entry ~= '' and act ~= '' and marker == d[3] then
  local tick, ticked = tonumber(d[7] or '') or 0, tonumber(d[8] or '') or 0
  local closes = now - ticked >= TICK_MS or now < ticked
  if closes then
    tick, ticked = tick + 1, now
    redis.call('HSET', document, 'tick', tick, 'ticked', ticked)
  end
  if closes or not is_idle then
    redis.call('XADD', log, 'MAXLEN', '~', keep_each * replicas, '*',
               'tick', tick, 'at', ticked, 'records', entry)
    redis.call('PEXPIRE', log, log_ms)
  end
end
local entries = {}
if most > 0 then entries = redis.call('XRANGE', log, '(' .. cursor, '+', 'COUNT', most) end

-- The tunnels and streams that are to leave each variant, at the replicas that are there.
if mine ~= '' then
  redis.call('HSET', leaving, me, mine)
  redis.call('PEXPIRE', leaving, keep_ms)
end
local names = {}
for _, member in ipairs(redis.call('ZRANGE', members, 0, -1)) do
  names[#names + 1] = string.match(member, '^(.*) %S*$')
end
local off_stable, off_canary = 0, 0
for _, theirs in ipairs(redis.call('HMGET', leaving, unpack(names))) do
  local stable, canary = string.match(theirs or '', '^(%d+) (%d+)$')
  off_stable, off_canary = off_stable + (stable or 0), off_canary + (canary or 0)
end

-- What the replicas that are there tell of themselves.
if report ~= '' then
  redis.call('HSET', reports, me, report)
  redis.call('PEXPIRE', reports, keep_ms)
else
  redis.call('HDEL', reports, me)
end
local told = {}
if redis.call('EXISTS', reports) == 1 then
  local is_here = {}
  for _, name in ipairs(names) do is_here[name] = true end
  local kept = redis.call('HGETALL', reports)
  for at = 1, #kept, 2 do
    if is_here[kept[at]] then
      told[#told + 1] = kept[at]
      told[#told + 1] = kept[at + 1]
    else
      redis.call('HDEL', reports, kept[at])
    end
  end
end

-- What services say whose proxies follow this release, as long as they have said it of late.
local said = {}
local heard = redis.call('HGETALL', behind)
for at = 1, #heard, 2 do
  local when, what = string.match(heard[at + 1], '^(%d+) (.*)$')
  if when and now - tonumber(when) <= HEARD_MS then
    said[#said + 1] = heard[at]
    said[#said + 1] = what
  else
    redis.call('HDEL', behind, heard[at])
  end
end

local text = ''
if act ~= '' and act ~= known then text = redis.call('HGET', document, 'text') end
return {now, act, tostring(term), holder, d[5] or '0', d[6] or '', total, text,
        replicas, agree, entries, off_stable, off_canary, told, said}

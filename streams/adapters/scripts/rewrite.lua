#!lua
-- Put twins derived again from the log in the place of those stored: everything, or, for any answer but OK, nothing.
-- The position, the marks, the counters and the trace stay as they are.
-- KEYS  meta, twins, versions, standing, index, risk outbox, audit
-- ARGV  epoch, owner, position, fingerprint, audit limit, then four lists, each after its length:
--       twins, standing, index (patient, bytes; '' removes), risk (key, headers, value)
-- Reply OK position | CONFLICT position what | FENCED position instance
local meta = KEYS[1]
local stored = redis.call('HMGET', meta, 'epoch', 'owner', 'next', 'instance')
local position = stored[3] or '0'

if stored[1] ~= ARGV[1] or stored[2] ~= ARGV[2] then
  return {'FENCED', position, stored[4] or ''}
end
if position ~= ARGV[3] then
  return {'CONFLICT', position, 'the twins were derived up to ' .. ARGV[3]}
end

local cursor = 6
local function list(width)
  local from, count = cursor + 1, tonumber(ARGV[cursor])
  cursor = from + count * width
  return {from = from, count = count, width = width}
end
local twins, standing, index, risk = list(2), list(2), list(2), list(3)
if cursor ~= #ARGV + 1 then
  return redis.error_reply('ERR rewrite: ' .. #ARGV .. ' arguments where the lengths of the lists make ' .. (cursor - 1))
end

-- Ids of the events: at the log's end, which is the last offset applied. They count on from the newest id the outbox
-- ever gave out (a stream remembers it when it is empty), so that they come after all that was published, and before
-- the first id of any record still to come: no tail scan can take them for old, or what follows for published.
local last = tonumber(position) - 1
local newest = 0
if risk.count > 0 then
  if last < 0 then
    return {'CONFLICT', position, 'no record was ever applied, so there is nothing to tell'}
  end
  if redis.call('EXISTS', KEYS[6]) == 1 then
    local info = redis.call('XINFO', 'STREAM', KEYS[6])
    for i = 1, #info, 2 do
      if info[i] == 'last-generated-id' then
        local offset, number = string.match(info[i + 1], '^(%d+)-(%d+)$')
        if tonumber(offset) > last then
          return {'CONFLICT', position, 'outbox risk is at ' .. info[i + 1] .. ', ahead of the position'}
        end
        if tonumber(offset) == last then newest = tonumber(number) end
      end
    end
  end
end

-- Lua's stack holds about 8,000 values: commands with many arguments go out in slices.
local SLICE = 2000
local function sliced(values, act)
  for from = 1, #values, SLICE do
    act(unpack(values, from, math.min(from + SLICE - 1, #values)))
  end
end

-- Whoever built on the old twin must find another version, also where the count itself was damaged.
local patients, versions = {}, {}
for i = 0, twins.count - 1 do
  patients[#patients + 1] = ARGV[twins.from + i * 2]
end
local counted = 0
sliced(patients, function(...)
  for _, version in ipairs(redis.call('HMGET', KEYS[3], ...)) do
    counted = counted + 1
    versions[#versions + 1] = patients[counted]
    versions[#versions + 1] = string.format('%.0f', (tonumber(version or '0') or 0) + 1)
  end
end)

-- First write. XADD first: it is the only command below that could still be refused for its data.
for i = 0, risk.count - 1 do
  local at = risk.from + i * 3
  redis.call('XADD', KEYS[6], string.format('%.0f-%.0f', last, newest + i + 1),
    'k', ARGV[at], 'h', ARGV[at + 1], 'v', ARGV[at + 2])
end
local function rows(key, entries)
  local set, gone = {}, {}
  for i = 0, entries.count - 1 do
    local at = entries.from + i * 2
    if ARGV[at + 1] == '' then
      gone[#gone + 1] = ARGV[at]
    else
      set[#set + 1], set[#set + 2] = ARGV[at], ARGV[at + 1]
    end
  end
  sliced(set, function(...) redis.call('HSET', key, ...) end)
  sliced(gone, function(...) redis.call('HDEL', key, ...) end)
end
rows(KEYS[2], twins)
sliced(versions, function(...) redis.call('HSET', KEYS[3], ...) end)
rows(KEYS[4], standing)
rows(KEYS[5], index)
redis.call('HSET', meta, 'fingerprint', ARGV[4])
-- An empty range: this owner wrote here, and applied nothing.
redis.call('XADD', KEYS[7], 'MAXLEN', '~', ARGV[5], '*',
  'epoch', ARGV[1], 'owner', ARGV[2], 'begin', position, 'end', position)
return {'OK', position}

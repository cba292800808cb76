#!lua
-- Write one batch: everything, or, for any answer but OK, nothing.
-- KEYS  meta, twins, versions, standing, index, risk outbox, dead-letter outbox, audit, trace, counters, staged
-- ARGV  epoch, owner, begin, end, risk limit, dead-letter limit, audit limit, trace limit, trace, fingerprint computed under or '',
--       fingerprint from here on or '', token of the twins that `stage` put aside or '' (their bytes are '' here then),
--       then five lists, each after its length: twins (patient, version expected, bytes), standing (patient, bytes),
--       index (patient, bytes), risk and dead letters (id, key, headers, '1' with a value or '0', value),
--       counters (name, addend)
-- Reply OK position | AHEAD position | BEHIND position | CONFLICT position what | FULL position which
--       | FENCED position instance
local meta = KEYS[1]
local stored = redis.call('HMGET', meta, 'epoch', 'owner', 'next', 'instance', 'fingerprint')
local position = stored[3] or '0'

if stored[1] ~= ARGV[1] or stored[2] ~= ARGV[2] then
  return {'FENCED', position, stored[4] or ''}
end
local first, last = tonumber(ARGV[3]), tonumber(ARGV[4])
if tonumber(position) > first then
  return {'AHEAD', position}
end
if tonumber(position) < first then
  return {'BEHIND', position}
end
if last <= first then
  return redis.error_reply('ERR apply: the batch [' .. ARGV[3] .. ', ' .. ARGV[4] .. ') is empty')
end

-- A store that was set back and forth may stand at the right offset again, and the caller have asked in between.
if ARGV[10] ~= '' and stored[5] ~= ARGV[10] then
  return {'CONFLICT', position, 'the library is ' .. (stored[5] or 'none') .. ', not ' .. ARGV[10]}
end

local cursor = 13
local function list(width)
  local from, count = cursor + 1, tonumber(ARGV[cursor])
  cursor = from + count * width
  return {from = from, count = count, width = width}
end
local twins, standing, index = list(3), list(2), list(2)
local outboxes = {
  {key = KEYS[6], entries = list(5), limit = tonumber(ARGV[5]), name = 'risk'},
  {key = KEYS[7], entries = list(5), limit = tonumber(ARGV[6]), name = 'dead_letters'},
}
local counters = list(2)
if cursor ~= #ARGV + 1 then
  return redis.error_reply('ERR apply: ' .. #ARGV .. ' arguments where the lengths of the lists make ' .. (cursor - 1))
end

-- Lua's stack holds about 8,000 values: commands with many arguments go out in slices.
local SLICE = 2000
local function sliced(values, act)
  for from = 1, #values, SLICE do
    act(unpack(values, from, math.min(from + SLICE - 1, #values)))
  end
end

local patients = {}
for i = 0, twins.count - 1 do
  patients[#patients + 1] = ARGV[twins.from + i * 3]
end
local checked, conflict = 0, nil
sliced(patients, function(...)
  local found = redis.call('HMGET', KEYS[3], ...)
  for _, version in ipairs(found) do
    local expected = ARGV[twins.from + checked * 3 + 1]
    if (version or '0') ~= expected and not conflict then
      -- By its number: this text is logged, and logs name no patient.
      conflict = 'twin ' .. checked + 1 .. ' of ' .. twins.count .. ' in the batch has version ' .. (version or '0')
        .. ', not ' .. expected
    end
    checked = checked + 1
  end
end)
if ARGV[12] ~= '' and not conflict then
  if ARGV[11] == '' then
    return redis.error_reply('ERR apply: twins are put aside only where all are written, with another library')
  end
  local put = redis.call('HGET', KEYS[11], 'the token') == ARGV[12] and redis.call('HLEN', KEYS[11]) - 1 or 0
  if put ~= twins.count then
    conflict = put .. ' twins of ' .. twins.count .. ' are put aside'
  end
end
if ARGV[11] ~= '' and not conflict then
  -- Another library: every twin there is must be among these, or the partition would hold twins of two.
  -- By the twins themselves: a rebuild that took one away left its version.
  local known = 0
  for _, patient in ipairs(patients) do
    known = known + redis.call('HEXISTS', KEYS[2], patient)
  end
  local held = redis.call('HLEN', KEYS[2])
  if known ~= held then
    conflict = 'another library takes effect in ' .. known .. ' twins of ' .. held
  end
end
if conflict then
  return {'CONFLICT', position, conflict}
end

local function parts(id)
  local offset, number = string.match(id, '^(%d+)-(%d+)$')
  return tonumber(offset), tonumber(number)
end
local function after(a, b)
  local ao, an = parts(a)
  local bo, bn = parts(b)
  return ao and bo and (ao > bo or (ao == bo and an > bn))
end
for _, outbox in ipairs(outboxes) do
  local entries = outbox.entries
  if entries.count > 0 then
    local newest, length = '0-0', 0
    if redis.call('EXISTS', outbox.key) == 1 then
      local info = redis.call('XINFO', 'STREAM', outbox.key)
      for i = 1, #info, 2 do
        if info[i] == 'last-generated-id' then newest = info[i + 1] end
        if info[i] == 'length' then length = info[i + 1] end
      end
    end
    for i = 0, entries.count - 1 do
      local id = ARGV[entries.from + i * 5]
      if not after(id, newest) then
        return {'CONFLICT', position, 'outbox ' .. outbox.name .. ' is at ' .. newest .. ' and cannot take ' .. id}
      end
      newest = id
    end
    -- A batch larger than the limit still fits an empty outbox: it could never be applied otherwise.
    if length > 0 and length + entries.count > outbox.limit then
      return {'FULL', position, outbox.name}
    end
  end
end

-- First write. XADD first: it is the only command below that could still be refused for its data.
for _, outbox in ipairs(outboxes) do
  for i = 0, outbox.entries.count - 1 do
    local at = outbox.entries.from + i * 5
    if ARGV[at + 3] == '1' then
      redis.call('XADD', outbox.key, ARGV[at], 'k', ARGV[at + 1], 'h', ARGV[at + 2], 'v', ARGV[at + 4])
    else
      redis.call('XADD', outbox.key, ARGV[at], 'k', ARGV[at + 1], 'h', ARGV[at + 2])
    end
  end
end
local bytes, versions = {}, {}
for i = 0, twins.count - 1 do
  local at = twins.from + i * 3
  bytes[#bytes + 1], bytes[#bytes + 2] = ARGV[at], ARGV[at + 2]
  versions[#versions + 1] = ARGV[at]
  versions[#versions + 1] = string.format('%.0f', tonumber(ARGV[at + 1]) + 1)
end
if ARGV[12] ~= '' then
  -- All there are, as was seen above: they take the place of the old ones in one step, however many they are.
  redis.call('HDEL', KEYS[11], 'the token')
  redis.call('UNLINK', KEYS[2])
  redis.call('RENAME', KEYS[11], KEYS[2])
else
  sliced(bytes, function(...) redis.call('HSET', KEYS[2], ...) end)
  redis.call('UNLINK', KEYS[11])
end
sliced(versions, function(...) redis.call('HSET', KEYS[3], ...) end)
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
rows(KEYS[4], standing)
rows(KEYS[5], index)
for i = 0, counters.count - 1 do
  redis.call('HINCRBY', KEYS[10], ARGV[counters.from + i * 2], ARGV[counters.from + i * 2 + 1])
end
redis.call('XADD', KEYS[8], 'MAXLEN', '~', ARGV[7], '*',
  'epoch', ARGV[1], 'owner', ARGV[2], 'begin', ARGV[3], 'end', ARGV[4])
if ARGV[9] ~= '' then
  redis.call('XADD', KEYS[9], 'MAXLEN', '~', ARGV[8], '*', 'begin', ARGV[3], 'end', ARGV[4], 'lines', ARGV[9])
end
if ARGV[11] ~= '' then
  redis.call('HSET', meta, 'fingerprint', ARGV[11])
end
local now = redis.call('TIME')
redis.call('HSET', meta, 'next', ARGV[4],
  'seen_ms', string.format('%.0f', tonumber(now[1]) * 1000 + math.floor(tonumber(now[2]) / 1000)))
return {'OK', ARGV[4]}

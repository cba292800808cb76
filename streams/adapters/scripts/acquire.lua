#!lua
-- Take over a partition: one more epoch, so that every later write of the former owner is refused.
-- KEYS  meta
-- ARGV  generation, owner, instance, fingerprint, start, lease in ms, further fingerprints that will do
-- Reply OK epoch position risk_mark dead_mark fingerprint | STALE generation | FINGERPRINT stored
local meta = KEYS[1]
local stored = redis.call('HMGET', meta, 'generation', 'owner', 'fingerprint', 'epoch', 'next', 'seen_ms')
local now = redis.call('TIME')
local now_ms = tonumber(now[1]) * 1000 + math.floor(tonumber(now[2]) / 1000)

-- What the partition stands under stays: only an activation in the log, or a rebuild, changes it.
local fingerprint = stored[3] or ARGV[4]
local known = fingerprint == ARGV[4]
for i = 7, #ARGV do
  known = known or fingerprint == ARGV[i]
end
if not known then
  return {'FINGERPRINT', stored[3]}
end
-- An older generation may not take over a live owner. Generations restart when the group is deleted: hence the lease.
local older = stored[1] and tonumber(ARGV[1]) < tonumber(stored[1])
local live = stored[6] and now_ms - tonumber(stored[6]) < tonumber(ARGV[6])
if older and live and stored[2] ~= ARGV[2] then
  return {'STALE', stored[1]}
end

local epoch = string.format('%.0f', tonumber(stored[4] or '0') + 1)
local position = stored[5] or ARGV[5]
redis.call('HSET', meta, 'generation', ARGV[1], 'owner', ARGV[2], 'instance', ARGV[3], 'fingerprint', fingerprint,
  'epoch', epoch, 'next', position, 'seen_ms', string.format('%.0f', now_ms))
local marks = redis.call('HMGET', meta, 'risk_mark', 'dead_letters_mark')
return {'OK', epoch, position, marks[1] or '', marks[2] or '', fingerprint}

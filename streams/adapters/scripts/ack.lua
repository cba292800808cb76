#!lua
-- Drop published messages from an outbox and keep how far it is published.
-- KEYS  meta, outbox
-- ARGV  epoch, owner, mark's field, last id, topic position's field, topic position or ''
-- Reply OK mark | FENCED instance
local meta = KEYS[1]
local stored = redis.call('HMGET', meta, 'epoch', 'owner', ARGV[3], 'instance')
if stored[1] ~= ARGV[1] or stored[2] ~= ARGV[2] then
  return {'FENCED', stored[4] or ''}
end
local function parts(id)
  local offset, number = string.match(id, '^(%d+)-(%d+)$')
  return tonumber(offset), tonumber(number)
end
local offset, number = parts(ARGV[4])
if not offset then
  return redis.error_reply('ERR ack: ' .. ARGV[4] .. ' is not an outbox id, <offset>-<n>')
end
local mark = ARGV[4]
if stored[3] then
  local held_offset, held_number = parts(stored[3])
  if held_offset > offset or (held_offset == offset and held_number > number) then
    mark = stored[3]
  end
end
redis.call('HSET', meta, ARGV[3], mark)
if ARGV[6] ~= '' then
  redis.call('HSET', meta, ARGV[5], ARGV[6])
end
redis.call('XTRIM', KEYS[2], 'MINID', string.format('%.0f-%.0f', offset, number + 1))
return {'OK', mark}

#!lua
-- Put some of a batch's twins aside under a token, until `apply` puts all of them in place at once.
-- KEYS  meta, staged
-- ARGV  epoch, owner, token, '1' for the first ones (what was put aside before goes) or '0', then patient, bytes, ...
-- Reply OK position | LOST position (the first ones are not there) | FENCED position instance
local stored = redis.call('HMGET', KEYS[1], 'epoch', 'owner', 'next', 'instance')
local position = stored[3] or '0'

if stored[1] ~= ARGV[1] or stored[2] ~= ARGV[2] then
  return {'FENCED', position, stored[4] or ''}
end
-- No pseudonym has a space: the token can stand among the patients.
if ARGV[4] == '1' then
  redis.call('UNLINK', KEYS[2])
  redis.call('HSET', KEYS[2], 'the token', ARGV[3])
elseif redis.call('HGET', KEYS[2], 'the token') ~= ARGV[3] then
  return {'LOST', position}
end
for i = 5, #ARGV, 2 do
  redis.call('HSET', KEYS[2], ARGV[i], ARGV[i + 1])
end
return {'OK', position}

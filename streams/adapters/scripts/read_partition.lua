#!lua flags=no-writes
-- Read what a partition holds of its patients, or of one of them, and the position it is true for, from one moment.
-- KEYS  meta, twins, standing, index
-- ARGV  the patient, or nothing for all
-- Reply meta, then twins, standing and index, each as a flat list
local reply = {redis.call('HGETALL', KEYS[1])}
for i = 2, 4 do
  if #ARGV == 0 then
    reply[i] = redis.call('HGETALL', KEYS[i])
  else
    local row = redis.call('HGET', KEYS[i], ARGV[1])
    reply[i] = row and {ARGV[1], row} or {}
  end
end
return reply

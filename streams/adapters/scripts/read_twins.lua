#!lua flags=no-writes
-- Read twins and the position they are true for, all from one moment.
-- KEYS  meta, twins, versions
-- ARGV  patients
-- Reply meta as a flat list, then one list of bytes (or nil), one of versions (or nil)
local bytes, versions = {}, {}
for i, patient in ipairs(ARGV) do
  bytes[i] = redis.call('HGET', KEYS[2], patient)
  versions[i] = redis.call('HGET', KEYS[3], patient)
end
return {redis.call('HGETALL', KEYS[1]), bytes, versions}

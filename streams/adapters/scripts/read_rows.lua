#!lua flags=no-writes
-- Read a whole hash (standing episodes, index, counters) and the position it is true for, from one moment.
-- KEYS  meta, hash
-- Reply meta as a flat list, the hash as a flat list
return {redis.call('HGETALL', KEYS[1]), redis.call('HGETALL', KEYS[2])}

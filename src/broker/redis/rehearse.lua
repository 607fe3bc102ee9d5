-- Calls every command that publishing and reading a history need, so that Redis refuses here, before anybody relies on the
-- server, whatever it would refuse there. Its keys belong to no channel, and nothing of them is left.
-- KEYS: a hash, a stream and a sorted set that nobody else uses. ARGV: PUBLISH or SPUBLISH; the pub/sub channel of
-- probes, whose listener ignores what is no number.
local hash, stream, set = KEYS[1], KEYS[2], KEYS[3]
redis.call('HGET', hash, 'a')
redis.call('HMGET', hash, 'a')
redis.call('HLEN', hash)
redis.call('HGETALL', hash)
redis.call('HDEL', hash, 'a')
redis.call('XRANGE', stream, '-', '+', 'COUNT', 1)
redis.call('XREVRANGE', stream, '+', '-', 'COUNT', 1)
redis.call('XTRIM', stream, 'MINID', '1')
redis.call('ZSCORE', set, 'a')
redis.call('ZREMRANGEBYSCORE', set, '-inf', '+inf')
redis.call('PEXPIRE', hash, 1)
redis.call(ARGV[1], ARGV[2], '')
-- A Redis that is full refuses these, and takes all others.
redis.call('XADD', stream, 'NOMKSTREAM', '1-1', 'a', '')
redis.call('ZADD', set, 'XX', 1, 'a')
redis.call('HSET', hash, 'a', '')
redis.call('DEL', hash)

-- Publishes one batch: gives it the next offsets of its channel, appends it to the history, and publishes the same bytes
-- to all nodes. Calling it again with the same batch is harmless: Redis keeps a batch once.
--
-- KEYS, all of one channel:
--   meta     hash. 'epoch' (8 bytes) and 'offset' of the newest message; 'bytes' that all entries have cost, and 'floor',
--            those before the oldest entry, or fewer; 'jumped', the offset up to which Redis has lost what it gave out;
--            'torn', there if a history ended because of that; 'many', see step 8; and for each publisher 'n:ID', its
--            newest batch: 'SEQUENCE SECONDS EPOCH OFFSET'. OFFSET is 0 if that batch was refused, and begins with 'r' if it
--            repeated a key.
--   stream   the history. An entry a batch: its id is the offset of the batch's last message, then the bytes that all
--            entries up to it have cost, so that two ids give the bytes between them. Older versions wrote 0 there.
--   keys     sorted set. For each key that a message in the history has: the key, and '\0' .. digest .. key, both with the
--            message's offset. No key begins with a zero byte. A key alone is of an older version.
--
-- Returns {epoch, offset, outcome}. The offset is that of the batch's last message, 0 if it is unknown. Outcomes:
local REPEATS_KEY = 0 -- the history has this message under its key: it is not published again
local PUBLISHED = 1   -- now or before
local KEY_TAKEN = 2   -- its key belongs to another message: it is refused
local BEGAN_ANEW = 3  -- published, in a new history, because somebody else had written nonsense to the keys

local meta = KEYS[1]
local stream = KEYS[2]
local keys = KEYS[3]

local pubsub = ARGV[1]                    -- the pub/sub channel
local publish = ARGV[2]                   -- PUBLISH, or SPUBLISH in a Cluster
local publisher = 'n:' .. ARGV[3]         -- field of the publisher's newest batch
-- Sequences have 20 digits, so that they compare as text: Lua's numbers are too short.
local sequence = ARGV[4]                  -- of the batch's last message
local previous = ARGV[5]                  -- of the last message before it in the same pipeline, or ''
local count = tonumber(ARGV[6])           -- messages in the batch
local body = ARGV[7]                      -- the batch without epoch and offset
local key = ARGV[8]                       -- key of its one message, or ''
local digest = ARGV[9]                    -- digest of the message that has a key, 20 bytes, or ''
local keep = tonumber(ARGV[10])           -- messages to keep
local keep_bytes = tonumber(ARGV[11])     -- bytes to keep
local ttl = ARGV[12]                      -- milliseconds to keep them after the last one
local meta_ttl = ARGV[13]                 -- milliseconds to keep the meta hash
local remember = tonumber(ARGV[14])       -- seconds to remember a publisher that is silent
local now = ARGV[15]                      -- seconds since 1970
local new_epoch = ARGV[16]                -- 8 bytes, in case a history begins
local seen_epoch = ARGV[17]               -- epoch and offset of the newest message that the publishing node knows of
local seen = tonumber(ARGV[18])
local in_flight = ARGV[19]                -- its sequence, if it is one of this publisher that was not received back, or ''
local is_remembered = ARGV[20] == '1'     -- it is so new that step 8 has not forgotten this publisher since

-- What Redis needs beside the payload for an entry, and for a key, which is in the set twice. Estimates: tests compare them
-- with what Redis 8 reports.
local ENTRY_COST = 48
local KEY_COST = 320
-- Step 11 looks at so many entries at a time, and so often. The next batches do the rest.
local LOOK = 64
local LOOKS = 8
-- Fewer publishers than this are never looked through in step 8.
local FEW = 16
-- Lua's numbers are exact up to here. The highest offset that a channel can have.
local HIGHEST = 999999999999999

-- A number of ours, or nil. Somebody else may have written these keys, by hand or from a backup: that must not stop the
-- channel.
local function number(text)
  return text and #text <= 15 and string.match(text, '^%d+$') and tonumber(text)
end

local function digits(value)
  return string.format('%.0f', value)
end

-- 1. Read what Redis knows of the channel and of this publisher.
local known = redis.call('HMGET', meta, 'epoch', 'offset', publisher, 'bytes', 'floor')
local epoch = known[1]
local last = number(known[2])
local newest = known[3]
local bytes = number(known[4]) or 0
local floor = math.min(number(known[5]) or 0, bytes)
local newest_sequence = newest and string.match(newest, '^(%d+) ') or ''
if #newest_sequence ~= 20 then
  newest_sequence = ''
end
if not epoch or #epoch ~= 8 or epoch == '\0\0\0\0\0\0\0\0' or not last or last + count > HIGHEST then
  epoch = false
end
local is_nonsense = not epoch and (known[1] or known[2])

-- 2. Begin a new history if there is none, or if Redis has lost the end of this one and others have got the same offsets
-- since. Redis has lost it if this publisher's message in flight is newer than what Redis remembers of this publisher.
-- Nothing of an older history can be kept: its offsets are gone.
local function begin_anew()
  epoch = new_epoch
  last = 0
  bytes = 0
  floor = 0
  redis.call('HSET', meta, 'epoch', epoch, 'offset', '0', 'jumped', '0', 'bytes', '0', 'floor', '0')
  redis.call('DEL', stream, keys)
end
local has_lost = in_flight > newest_sequence and (newest or is_remembered)
local is_given_again = seen_epoch == epoch and seen <= last
-- Somebody may have gone on behind the lost end already, in step 9. Then no offset was given again.
local is_outrun = has_lost and is_given_again and seen > (number(redis.call('HGET', meta, 'jumped')) or 0)
if not epoch or is_outrun then
  begin_anew()
  if is_outrun then
    -- Nodes that have received everything so far may still have missed something.
    redis.call('HSET', meta, 'torn', '1')
  end
end

-- 3. Look for the batch's key in the history.
local kept = key ~= '' and redis.call('ZSCORE', keys, key)
if kept and not (number(kept) and number(kept) > last - keep and number(kept) <= last) then
  kept = false
end
local digest_member = '\0' .. digest .. key
-- A key without any digest may belong to any message: it counts as the same.
local is_taken = kept
  and redis.call('ZSCORE', keys, digest_member) ~= kept
  and redis.call('ZCOUNT', keys, kept, kept) > 1

-- 4. Answer a batch that was published before, because its publisher did not get the first answer.
if newest_sequence >= sequence then
  -- Its offset is known if it was this publisher's newest, and means something in the same epoch only.
  local known_offset = newest_sequence == sequence
    and string.find(newest, epoch, 1, true)
    and string.match(newest, '%d+$')
  if known_offset then
    local was_refused = key ~= '' and known_offset == '0'
    local has_repeated = string.find(newest, ' r%d+$')
    return {epoch, tonumber(known_offset), was_refused and KEY_TAKEN or has_repeated and REPEATS_KEY or PUBLISHED}
  end
  -- Whether it repeated a key is not known any more. If it did, receivers may take it for a message that they have missed.
  return {epoch, tonumber(not is_taken and kept or 0), is_taken and KEY_TAKEN or PUBLISHED}
end

-- 5. Keep the order: the batch before it in the pipeline was not taken, so this one must wait.
if previous > newest_sequence then
  return redis.error_reply('OUTOFORDER the batch before this one was not taken')
end

local function remember_publisher(offset)
  redis.call('HSET', meta, publisher, sequence .. ' ' .. now .. ' ' .. epoch .. ' ' .. offset)
end

-- 6. Do not publish a key twice. The publisher has come this far all the same: the batches behind this one are next.
if kept then
  local offset = is_taken and '0' or kept
  remember_publisher(is_taken and '0' or 'r' .. kept)
  return {epoch, tonumber(offset), is_taken and KEY_TAKEN or REPEATS_KEY}
end

-- 7. Check the right to publish before anything is written: a batch that is refused is not kept either.
if redis.acl_check_cmd and not redis.acl_check_cmd(publish, pubsub, '') then
  return redis.error_reply('NOPERM No permissions to access a channel: ' .. pubsub)
end

-- 8. Forget publishers when a new one comes. Each channel object of each node is one. It removes its own field when it ends
-- well, but not when its node is killed or cut off. Redis needs a publisher's field as long as that may repeat a batch: it
-- repeats one whose answer was lost until Redis answers, so the time is how long a node may be cut off and come back.
-- Looking through all of them is paid for by new ones: the next look is when there are a quarter more, or FEW.
local publishers = newest and 0 or redis.call('HLEN', meta)
if publishers > (number(redis.call('HGET', meta, 'many')) or FEW) then
  local fields = redis.call('HGETALL', meta)
  for i = 1, #fields, 2 do
    local is_publisher = string.sub(fields[i], 1, 2) == 'n:'
    local seconds = number(string.match(fields[i + 1], ' (%d+)')) or 0
    if is_publisher and seconds + remember < tonumber(now) then
      publishers = publishers - redis.call('HDEL', meta, fields[i])
    end
  end
  redis.call('HSET', meta, 'many', publishers + math.max(math.floor(publishers / 4), FEW))
end

-- 9. Skip offsets that Redis gave out and has lost. No offset is given twice, and nodes that miss them see a gap.
if seen_epoch == epoch and seen > last and seen + count <= HIGHEST then
  last = seen
  redis.call('HSET', meta, 'jumped', ARGV[18])
end

-- 10. Append the batch to the history.
local id, total, payload
local function add_entry()
  last = last + count
  id = digits(last)
  -- The envelope's magic, its epoch (field 1) and offset (field 2) as protobuf's fixed64, then all other fields.
  payload = '\236\1\9' .. epoch .. '\17' .. struct.pack('<I8', last - count + 1) .. body
  bytes = bytes + #payload + ENTRY_COST
  if key ~= '' then
    bytes = bytes + KEY_COST + 2 * #key
  end
  total = digits(bytes)
  return redis.pcall('XADD', stream, id .. '-' .. total, 'b', payload)
end
local function is_occupied(added)
  return type(added) == 'table'
    and (string.find(added.err, 'ID specified', 1, true) or string.find(added.err, 'exhausted', 1, true))
end
local added = add_entry()
if is_occupied(added) then
  -- Somebody else has put an entry where ours belongs.
  is_nonsense = true
  begin_anew()
  added = add_entry()
end
if type(added) == 'table' then
  return added
end
redis.call('HSET', meta, 'offset', id, 'bytes', total)
remember_publisher(id)

-- 11. Trim the history to this node's settings. Where nodes have different ones the smallest wins: Redis' memory is what
-- operators lower it for, and that must work with the first node that has the new setting. A history that is too short is
-- reported to clients and counted; one that is too long fills Redis for everybody.
local oldest = math.max(last - keep + 1, 0)
redis.call('XTRIM', stream, 'MINID', digits(oldest))
-- The floor is at most what the entries before the oldest one have cost. So the oldest entries are looked at only when it
-- is too far below. The newest entry always stays.
if bytes - floor > keep_bytes then
  local from, batch, is_enough = '-', 1, false
  for _ = 1, LOOKS do
    local entries = redis.call('XRANGE', stream, from, '+', 'COUNT', batch)
    for i = 1, #entries do
      local offset, upto = string.match(entries[i][1], '^(%d+)-(%d+)$')
      upto = number(upto) or 0
      if upto > 0 then
        floor = math.max(floor, upto - #entries[i][2][2] - ENTRY_COST)
      end
      is_enough = offset == id or bytes - floor <= keep_bytes
      if is_enough then
        break
      end
      if upto > 0 then
        floor = math.max(floor, upto)
        oldest = math.max(oldest, tonumber(offset) + 1)
      elseif i == LOOK then
        -- Entries of older versions cost nothing, and go with those before or behind them.
        oldest = math.max(oldest, tonumber(offset) + 1)
      end
      from = '(' .. entries[i][1]
    end
    if is_enough or #entries < batch then
      break
    end
    batch = math.min(2 * batch, LOOK)
  end
  redis.call('XTRIM', stream, 'MINID', digits(oldest))
  redis.call('HSET', meta, 'floor', digits(floor))
end

-- 12. Remember the key. Keys live exactly as long as their messages, so batches without a key trim them, too.
if key ~= '' then
  redis.call('ZADD', keys, id, key, id, digest_member)
end
if redis.call('PEXPIRE', keys, ttl) == 1 then
  -- It is too late to fail if this key is somebody else's, so errors are ignored.
  redis.pcall('ZREMRANGEBYSCORE', keys, '-inf', '(' .. digits(oldest))
end
redis.call('PEXPIRE', stream, ttl)
redis.call('PEXPIRE', meta, meta_ttl)

-- 13. Publish it.
redis.call(publish, pubsub, payload)
return {epoch, last, is_nonsense and BEGAN_ANEW or PUBLISHED}

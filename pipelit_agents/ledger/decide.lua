-- Decides one attempt to verify a peer: it applies the limits, counts and spends in one step. The
-- rules are those of rules.py, except for the yearly allowance, which is in SQL.
--
-- KEYS  1 the lane: unlocks, version, failures in a row, the end of its lock, and the moments of the
--         failures of the last minute
--       2 what is spent: unlocks, the generation of the secret, its last spent step, the moment
--         until which spent steps may have been forgotten, and the run_id of the server that noted it
--       The fields of a key are separated by spaces.
-- ARGV  1 separated by spaces:
--         the moment, Unix seconds; "-" for this server's clock
--         the first and the last step that was tried
--         what SQL has about the lane: unlocks, version, failures in a row, the end of its lock
--         whether a right code ends the lane's failures: 1 or 0
--         what SQL has about spent steps: unlocks, the generation of the present secret, its last
--         spent step, and the last spent step of the secret before
--         a token that identifies this call
--       2 failures_per_minute, lock_after, lock_seconds, longest_lock_seconds, window, period,
--         seconds for which a key is kept; separated by spaces
--       3 why no code of the peer is accepted; empty if one may be
--       4 the steps in which it is a code of the present secret, separated by spaces
--       5 the steps in which it is a code of the secret before
-- Returns, separated by spaces: the token of this call, the verdict, the moment, the step, seconds to
-- wait ("-" for none), the lane's version, its failures in a row, the end of its lock, and the reason.

local moment, first, last, lane_unlocks, sql_version, sql_in_a_row, sql_locked_until, forgives,
  spent_unlocks, generation, sql_spent, sql_previous, call =
  string.match(ARGV[1], '^(%S+) (%S+) (%S+) (%S+) (%S+) (%S+) (%S+) (%S+) (%S+) (%S+) (%S+) (%S+) (%S+)$')
local per_minute, lock_after, lock_seconds, longest, window, period, keep =
  string.match(ARGV[2], '^(%S+) (%S+) (%S+) (%S+) (%S+) (%S+) (%S+)$')
local unfit = ARGV[3]

local now = tonumber(moment)
if not now then
  local time = redis.call('TIME')
  now = tonumber(time[1]) + tonumber(time[2]) / 1000000
end
lane_unlocks, spent_unlocks = tonumber(lane_unlocks), tonumber(spent_unlocks)
sql_version, sql_in_a_row = tonumber(sql_version), tonumber(sql_in_a_row)
sql_locked_until, forgives = tonumber(sql_locked_until), forgives == '1'
generation, sql_spent, sql_previous = tonumber(generation), tonumber(sql_spent), tonumber(sql_previous)
per_minute, lock_after = tonumber(per_minute), tonumber(lock_after)
lock_seconds, longest = tonumber(lock_seconds), tonumber(longest)
window, period = tonumber(window), tonumber(period)

local lane, spender

-- Format each number, because Lua prints large ones with fourteen digits or in powers of ten.
local function answer(verdict, reason, step, wait)
  wait = wait and string.format('%.6f', wait) or '-'
  return string.format('%s %s %.6f %d %s %d %d %.6f %s', call, verdict, now, step or 0, wait,
    lane and lane.version or 0, lane and lane.in_a_row or 0, lane and lane.locked_until or 0, reason)
end

local present = math.floor(now / period)
local from, to = math.max(0, present - window), present + window
if from < tonumber(first) or to > tonumber(last) then
  -- The caller's clock is too far from this one. It tries again by this server's clock.
  return answer('clock', '')
end

-- NaN isn't equal to itself, so it isn't accepted as a number.
local function number(text)
  local found = tonumber(text)
  return found == found and found
end

local function damaged(key)
  return redis.error_reply('ERR the counters under ' .. key .. ' are damaged: delete that key')
end

-- Returns the fields of a key by the pattern, or nil if there is no such key. The first `count` fields
-- must be numbers. The second result is an error, the third the text.
local function read(key, pattern, count)
  local text = redis.pcall('GET', key)
  if type(text) == 'table' and not string.find(text.err, 'WRONGTYPE', 1, true) then
    -- The server failed, and the key may be whole, so don't tell anybody to delete it.
    return nil, text
  end
  if not text then
    return nil
  end
  local fields = type(text) == 'string' and {string.match(text, pattern)} or {}
  for place = 1, count do
    fields[place] = number(fields[place])
    if not fields[place] then
      return nil, damaged(key)
    end
  end
  return fields, nil, text
end

local fields, failed, lane_text, spender_text
fields, failed, lane_text = read(KEYS[1], '^(%S+) (%S+) (%S+) (%S+) ?(.*)$', 4)
if failed then
  return failed
end
fields = fields or {-1, -1, 0, 0, ''}
lane = {unlocks = fields[1], version = fields[2], in_a_row = fields[3], locked_until = fields[4], recent = fields[5]}
fields, failed, spender_text = read(KEYS[2], '^(%S+) (%S+) (%S+) (%S+) (%S+)$', 4)
if failed then
  return failed
end
fields = fields or {-1, -1, -1, -period, '-'}
spender = {unlocks = fields[1], generation = fields[2], spent = fields[3], changed = fields[4], run = fields[5]}

-- Returns whether a key is from before the last unlock. An attempt that read SQL before that unlock
-- changes nothing. But an unlock more than an hour ahead of the clock was written while the clock was
-- wrong, in a database that has been replaced since.
local function is_older(row, unlocks)
  return row.unlocks < unlocks or (row.unlocks > unlocks and row.unlocks > now + 3600)
end

if is_older(lane, lane_unlocks) then
  lane.unlocks, lane.version, lane.recent = lane_unlocks, sql_version, ''
  lane.in_a_row, lane.locked_until = sql_in_a_row, sql_locked_until
elseif sql_version > lane.version then
  -- This server has lost the newest state.
  lane.version, lane.in_a_row, lane.locked_until = sql_version, sql_in_a_row, sql_locked_until
end
if is_older(spender, spent_unlocks) then
  spender.unlocks = spent_unlocks
  if spender.spent > to then
    -- The clock was ahead. The unlock has written to SQL which steps could have been spent.
    spender.spent = math.max(sql_spent, sql_previous)
  end
end
if spender.generation < generation then
  -- No step of a new secret is spent. SQL has the spent steps of the secret before.
  spender.generation, spender.spent = generation, -1
end

-- A server that was restarted, was restored or took over may have forgotten the last spent steps. SQL
-- also has the last one: if it is too old to be accepted, no step that could be accepted was
-- forgotten. Steps that SQL has are refused anyway; this is for the case that SQL forgot them too.
local run = string.match(redis.call('INFO', 'server'), 'run_id:(%w+)')
if not run then
  return redis.error_reply('ERR the server does not tell its run_id')
end
if spender.run ~= run then
  spender.run = run
  if math.max(sql_spent, sql_previous) >= from then
    spender.changed = now
  end
end
if spender.changed > now + window * period then
  -- The clock was ahead.
  spender.changed = now
end

local function lock_of(in_a_row)
  return math.min(lock_seconds * 2 ^ math.min(math.max(0, in_a_row - lock_after), 60), longest)
end

-- A moment that the clock hasn't reached yet holds no longer than one that is written now.
if lane.locked_until > now then
  lane.locked_until = math.min(lane.locked_until, now + lock_of(lane.in_a_row))
end
local recent = {}
for text in string.gmatch(lane.recent, '%S+') do
  local at = number(text)
  if not at then
    return damaged(KEYS[1])
  end
  if at > now - 60 then
    recent[#recent + 1] = math.min(at, now)
  end
end

local function finish(...)
  for place, at in ipairs(recent) do
    recent[place] = string.format('%.6f', at)
  end
  local text = string.format('%d %d %d %.6f %s', lane.unlocks, lane.version, lane.in_a_row, lane.locked_until,
    table.concat(recent, ' '))
  if text ~= lane_text then
    redis.call('SET', KEYS[1], text, 'EX', keep)
  end
  text = string.format('%d %d %d %.6f %s', spender.unlocks, spender.generation, spender.spent, spender.changed,
    spender.run)
  if text ~= spender_text then
    redis.call('SET', KEYS[2], text, 'EX', keep)
  end
  return answer(...)
end

if lane.locked_until > now then
  return finish('locked', 'lane locked', 0, lane.locked_until - now)
end
if #recent >= per_minute then
  return finish('limited', 'rate limited', 0, recent[#recent - per_minute + 1] + 60 - now)
end

local function newest(steps)
  local step = -1
  for each in string.gmatch(steps, '%S+') do
    local found = tonumber(each)
    if found >= from and found <= to then
      step = math.max(step, found)
    end
  end
  return step
end

local of_present, of_previous = newest(ARGV[4]), newest(ARGV[5])
local spent, previous = math.max(spender.spent, sql_spent), math.max(spender.spent, sql_previous)
local step = math.max(of_present > spent and of_present or -1, of_previous > previous and of_previous or -1)
local reason = unfit
if reason == '' then
  if of_present < 0 and of_previous < 0 then
    reason = 'wrong code'
  elseif step < 0 then
    reason = (of_present >= 0 and spent or previous) > to and 'spent step ahead of the clock' or 'replay'
  elseif step <= math.floor(spender.changed / period) + window then
    -- A code may be ahead of the clock by the window, so these steps of the future may have been
    -- spent and forgotten too.
    reason = 'step from before a restart'
  end
end
if reason == '' then
  if forgives and (lane.in_a_row > 0 or #recent > 0) then
    lane.version, lane.in_a_row, lane.locked_until, recent = lane.version + 1, 0, 0, {}
  end
  spender.spent = math.max(spender.spent, step)
  return finish('accepted', '', step)
end

lane.version, lane.in_a_row = lane.version + 1, lane.in_a_row + 1
recent[#recent + 1] = now
if lane.in_a_row >= lock_after then
  recent, lane.locked_until = {}, now + lock_of(lane.in_a_row)
end
return finish('rejected', reason)

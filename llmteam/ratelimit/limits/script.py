"""The rules of limits in Lua, where one decision is one atomic step for every process.

Five keys per limit: ``state`` (``full``: when the bucket is; ``until``: for how long this key, ``log`` and ``held`` are
kept at least), ``log`` (permits by admission), ``held`` (permits by the end of their lease), ``queue`` (tickets by
arrival) and ``ends`` (tickets by the end of their place). Moments are microseconds of the server's clock. Numbers are
written with 17 digits: Lua's own way to show them loses microseconds.

Commands are what a script costs, so the way of a call that is let in has few: what no longer counts is passed over by
counting, and taken out now and then; and keys are given a longer life only when theirs would end too early.
"""

from __future__ import annotations

from llmteam.ratelimit.limits.rules import GRACE_MOST, POLL, POLL_MOST, SPANS

#: The keys of a limit, in their order.
KEYS = ("state", "log", "held", "queue", "ends")
#: Keys and numbers per limit.
KEYS_EACH, NUMBERS_EACH = len(KEYS), 10

#: Of both scripts. KEYS: the five of each limit. ARGV: the moment (empty: the server's), ticket or nothing, permit or
#: nothing, what to do, lease, grace, then per limit: interval, burst, calls under way, queue size, capacity and span of
#: each window (capacity 0: none).
_COMMON = f"""
local now = tonumber(ARGV[1])
if not now then
  local time = redis.call('TIME')
  now = time[1] * 1000000 + time[2]
end
local ticket, permit, mode, lease, grace = ARGV[2], ARGV[3], ARGV[4], tonumber(ARGV[5]), tonumber(ARGV[6])
local names = {{{", ".join(f"'{name}'" for name, _ in SPANS)}}}

local function text(number)
  return string.format('%.17g', number)
end

local function whole(number)
  return string.format('%.0f', number)
end

-- Milliseconds that keys outlive what they say.
local SPARE = 60000
-- One admission in so many takes out what no longer counts.
local CLEANING = 16

local function keep(key, span)
  local millis = math.ceil(span / 1000) + SPARE
  if redis.call('PTTL', key) < millis then
    redis.call('PEXPIRE', key, whole(millis))
  end
end

-- All that counts is still needed after ``span``. Writes first: what is not there gets no end.
local function last(limit, span)
  if limit['until'] < now + span then
    limit['until'] = now + span + SPARE * 1000
    redis.call('HSET', limit.state, 'until', whole(limit['until']))
    local millis = whole(math.ceil((limit['until'] - now) / 1000))
    redis.call('PEXPIRE', limit.state, millis)
    redis.call('PEXPIRE', limit.log, millis)
    redis.call('PEXPIRE', limit.held, millis)
  elseif limit.under_way == 0 then
    -- When its last permit was given back the key was gone, and its end with it.
    redis.call('PEXPIRE', limit.held, whole(math.ceil((limit['until'] - now) / 1000)))
  end
end

local function leave(limit)
  redis.call('ZREM', limit.queue, ticket)
  redis.call('ZREM', limit.ends, ticket)
end

local function read(number)
  local k, a = (number - 1) * {KEYS_EACH}, 6 + (number - 1) * {NUMBERS_EACH}
  local limit = {{
    state = KEYS[k + 1], log = KEYS[k + 2], held = KEYS[k + 3], queue = KEYS[k + 4], ends = KEYS[k + 5],
    interval = tonumber(ARGV[a + 1]), burst = tonumber(ARGV[a + 2]), in_flight = tonumber(ARGV[a + 3]),
    queue_size = tonumber(ARGV[a + 4]), windows = {{}}, longest = 0,
  }}
  for i, name in ipairs(names) do
    local capacity, span = tonumber(ARGV[a + 3 + 2 * i]), tonumber(ARGV[a + 4 + 2 * i])
    if capacity > 0 then
      limit.windows[#limit.windows + 1] = {{name = name, capacity = capacity, span = span}}
      limit.longest = math.max(limit.longest, span)
    end
  end
  local kept = redis.call('HMGET', limit.state, 'full', 'until')
  limit.full = math.max(tonumber(kept[1] or now), now)
  limit['until'] = tonumber(kept[2] or 0)
  limit.under_way = redis.call('ZCOUNT', limit.held, '(' .. whole(now), '+inf')
  limit.waiting = redis.call('ZCARD', limit.queue)
  if limit.waiting > 0 then
    for _, gone in ipairs(redis.call('ZRANGEBYSCORE', limit.ends, '-inf', whole(now))) do
      redis.call('ZREM', limit.queue, gone)
      redis.call('ZREM', limit.ends, gone)
      limit.waiting = limit.waiting - 1
    end
  end
  return limit
end

local GRACE_MOST = {GRACE_MOST}
local limits = {{}}
for number = 1, #KEYS / {KEYS_EACH} do
  limits[number] = read(number)
end

local function turn(limit, ahead)
  if limit.burst == 0 then
    return math.huge, 'bucket'
  end
  local latest, why = 0, ''
  local function later(moment, name)
    if moment > latest then
      latest, why = moment, name
    end
  end
  if limit.interval > 0 then
    later(limit.full - (limit.burst - 1 - ahead) * limit.interval, 'bucket')
  end
  for _, window in ipairs(limit.windows) do
    local rounds, newest = math.floor(ahead / window.capacity), window.capacity - ahead % window.capacity
    local entry = redis.call('ZRANGE', limit.log, -newest, -newest, 'WITHSCORES')
    local free = entry[2] and tonumber(entry[2]) + window.span or 0
    if rounds > 0 then
      free = math.max(free, now) + rounds * window.span
    end
    later(free, window.name)
  end
  local room = limit.in_flight - limit.under_way - ahead
  if room < 1 then
    later(now + math.min({POLL_MOST}, {POLL} * (1 - room)), 'in_flight')
  end
  return latest, why
end

local function wait_until(moment)
  return moment == math.huge and '-1' or whole(math.max(math.ceil(moment - now), 0))
end
"""

#: Answers with admitted, microseconds to wait (-1: for ever), how many are before it, what limits it, and the number of
#: the limit.
ASK = (
    _COMMON
    + """
local arrival
for _, limit in ipairs(limits) do
  limit.arrival = limit.waiting > 0 and tonumber(redis.call('ZSCORE', limit.queue, ticket) or nil)
  if limit.arrival then
    arrival = math.min(arrival or limit.arrival, limit.arrival)
  end
end

local worst
for number, limit in ipairs(limits) do
  if limit.arrival then
    limit.ahead = redis.call('ZRANK', limit.queue, ticket)
  elseif arrival then
    limit.ahead = redis.call('ZCOUNT', limit.queue, '-inf', whole(arrival))
  else
    limit.ahead = limit.waiting
  end
  limit.number, limit.turn, limit.why = number, turn(limit, limit.ahead)
  if not worst or limit.turn > worst.turn then
    worst = limit
  end
end

if worst.turn <= now then
  for _, limit in ipairs(limits) do
    local full = limit.full + limit.interval
    if limit.interval > 0 then
      redis.call('HSET', limit.state, 'full', text(full))
    end
    if limit.longest > 0 then
      redis.call('ZADD', limit.log, whole(now), permit)
    end
    redis.call('ZADD', limit.held, whole(now + lease), permit)
    last(limit, math.max(full - now, limit.longest, lease))
    if now % CLEANING == 0 then
      redis.call('ZREMRANGEBYSCORE', limit.log, '-inf', whole(now - limit.longest))
      redis.call('ZREMRANGEBYSCORE', limit.held, '-inf', whole(now))
    end
    if limit.arrival then
      leave(limit)
    end
  end
  return {1, '0', 0, '', 0}
end

if mode ~= 'queue' or worst.turn == math.huge then
  if arrival then
    for _, limit in ipairs(limits) do
      leave(limit)
    end
  end
  return {0, wait_until(worst.turn), worst.ahead, worst.why, worst.number}
end

if not arrival then
  if worst.queue_size >= 0 and worst.waiting >= worst.queue_size then
    return {0, wait_until(worst.turn), worst.waiting, 'queue', worst.number}
  end
  local last = redis.call('ZRANGE', worst.queue, -1, -1, 'WITHSCORES')
  arrival = math.max(now, last[2] and tonumber(last[2]) + 1 or now)
end

-- Only for the last of its turns: a place anywhere else would keep others from room that it cannot use yet.
for _, limit in ipairs(limits) do
  if limit ~= worst and limit.arrival then
    leave(limit)
  end
end
local wait = math.ceil(worst.turn - now)
local span = wait + math.max(grace, math.min(wait, GRACE_MOST))
redis.call('ZADD', worst.queue, 'NX', whole(arrival), ticket)
redis.call('ZADD', worst.ends, whole(now + span), ticket)
keep(worst.queue, span)
keep(worst.ends, span)
return {0, wait_until(worst.turn), worst.ahead, worst.why, worst.number}
"""
)

#: Does what ARGV says: ``renew`` answers with whether the permit is still held everywhere; ``look`` with tokens, calls
#: under way, waiting tickets, microseconds to wait, what limits, and the room of each window, of each limit.
TEND = (
    _COMMON
    + """
if mode == 'renew' then
  for _, limit in ipairs(limits) do
    if tonumber(redis.call('ZSCORE', limit.held, permit) or 0) <= now then
      return 0
    end
  end
  for _, limit in ipairs(limits) do
    redis.call('ZADD', limit.held, whole(now + lease), permit)
    last(limit, lease)
  end
  return 1
end

local found = {}
for number, limit in ipairs(limits) do
  local taken = limit.interval > 0 and (limit.full - now) / limit.interval or 0
  local latest, why = turn(limit, limit.waiting)
  local room = {}
  for i, window in ipairs(limit.windows) do
    local taken = redis.call('ZCOUNT', limit.log, '(' .. whole(now - window.span), '+inf')
    room[i] = math.max(window.capacity - taken, 0)
  end
  found[number] = {
    text(math.max(limit.burst - taken, 0)), limit.under_way, limit.waiting, wait_until(latest),
    latest > now and why or '', room,
  }
end
return found
"""
)

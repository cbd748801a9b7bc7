"""The rules of a circuit in Lua, where one call is one atomic step for every process.

One hash per circuit: ``state``, ``generation``, ``since``, ``until``, ``successes``, ``history`` and one field
``trial:<caller>`` for each trial. Moments are milliseconds of the server's clock.
"""

from __future__ import annotations

#: KEYS: the circuit. ARGV: what to do, the moment (empty: the server's), then as the first lines name them.
#: Answers with admitted, state, generation, milliseconds to wait, milliseconds in the state (-1: never changed), and
#: the state before.
SCRIPT = """
local key, op, now = KEYS[1], ARGV[1], tonumber(ARGV[2])
local keep_ms, who, permitted, wanted = ARGV[3], ARGV[4], tonumber(ARGV[5]), ARGV[6]
local failure_threshold, rate, sample_size = tonumber(ARGV[7]), tonumber(ARGV[8]), tonumber(ARGV[9])
local max_trials, success_threshold = tonumber(ARGV[10]), tonumber(ARGV[11])
local window_ms, trial_ms, late_ms = tonumber(ARGV[12]), tonumber(ARGV[13]), tonumber(ARGV[14])
local open_ms, retry_ms = tonumber(ARGV[15]), ARGV[16]

if not now then
  local time = redis.call('TIME')
  now = time[1] * 1000 + math.floor(time[2] / 1000)
end

local circuit = {state = 'closed', generation = 0, since = 0, ['until'] = 0, successes = 0, history = ''}
local trials, under_way = {}, 0
local stored = redis.call('HGETALL', key)
for i = 1, #stored, 2 do
  local name, value = stored[i], stored[i + 1]
  if string.sub(name, 1, 6) == 'trial:' then
    trials[string.sub(name, 7)] = tonumber(value)
  elseif name == 'state' or name == 'history' then
    circuit[name] = value
  else
    circuit[name] = tonumber(value)
  end
end
local before = circuit.state

local function whole(number)
  return string.format('%.0f', number)
end

local function keep(...)
  redis.call('HSET', key, ...)
  redis.call('PEXPIRE', key, keep_ms)
end

local function begin(state)
  circuit = {
    state = state, generation = math.max(circuit.generation + 1, now), since = now, successes = 0, history = '',
    ['until'] = state == 'open' and now + open_ms or 0,
  }
  trials = {}
  redis.call('DEL', key)
  keep('state', state, 'generation', whole(circuit.generation), 'since', whole(now),
    'until', whole(circuit['until']), 'successes', '0')
end

local function answer(admitted, wait)
  if not wait then
    wait = circuit.state == 'open' and whole(math.max(circuit['until'] - now, 0)) or '0'
  end
  local lasted = circuit.generation == 0 and '-1' or whole(math.max(now - circuit.since, 0))
  return {admitted and 1 or 0, circuit.state, whole(circuit.generation), wait, lasted, before}
end

local function allow()
  if circuit.state == 'closed' or (circuit.state == 'open' and now < circuit['until']) then
    return answer(circuit.state == 'closed')
  end
  if circuit.state == 'open' then
    begin('half_open')
  end
  for name, ends in pairs(trials) do
    if ends > now then
      under_way = under_way + 1
    elseif ends + late_ms <= now then
      redis.call('HDEL', key, 'trial:' .. name)
    end
  end
  local goes_on = trials[who] and trials[who] > now
  if not goes_on and under_way >= max_trials then
    return answer(false, retry_ms)
  end
  keep('trial:' .. who, whole(now + trial_ms))
  return answer(true)
end

local function too_many(failed)
  local in_a_row, bad = 0, 0
  while in_a_row < #failed and failed[#failed - in_a_row] do
    in_a_row = in_a_row + 1
  end
  if in_a_row >= failure_threshold then
    return true
  end
  if #failed < sample_size then
    return false
  end
  for i = #failed - sample_size + 1, #failed do
    bad = bad + (failed[i] and 1 or 0)
  end
  return bad > 0 and bad / sample_size >= rate
end

local function remember()
  local times, marks = {}, {}
  for time, mark in string.gmatch(circuit.history, '(%d+)(%a)') do
    times[#times + 1], marks[#marks + 1] = time, mark
  end
  times[#times + 1], marks[#marks + 1] = whole(now), wanted == 'failure' and 'f' or 's'
  local kept, failed = {}, {}
  for i = math.max(#times - math.max(failure_threshold, sample_size) + 1, 1), #times do
    if tonumber(times[i]) > now - window_ms then
      kept[#kept + 1], failed[#failed + 1] = times[i] .. marks[i], marks[i] == 'f'
    end
  end
  if wanted == 'failure' and too_many(failed) then
    begin('open')
  else
    keep('history', table.concat(kept, ' '))
  end
end

local function record()
  if permitted ~= -1 and permitted ~= circuit.generation then
    return
  end
  if circuit.state == 'closed' and wanted ~= 'ignored' then
    remember()
  elseif circuit.state == 'half_open' then
    local known = who == '' or (trials[who] and trials[who] + late_ms > now)
    redis.call('HDEL', key, 'trial:' .. who)
    if wanted == 'failure' then
      begin('open')
    elseif wanted == 'success' and known then
      circuit.successes = circuit.successes + 1
      if circuit.successes >= success_threshold then
        begin('closed')
      else
        keep('successes', whole(circuit.successes))
      end
    end
  end
end

if op == 'allow' then
  return allow()
elseif op == 'record' then
  record()
elseif op == 'force' then
  begin(wanted)
end
return answer(circuit.state == 'closed')
"""

-- Gives every error of the OpenAI paths OpenAI's shape, and every gRPC error the HTTP status 200. It stands before the
-- filters for grpc-web, authorization and transcoding, so that its response half runs after theirs and sees what the
-- client would get.

local OPENAI_PATHS = "^/v1/"
local LARGEST_ERROR_BODY = 65536
local UNKNOWN, RESOURCE_EXHAUSTED = "2", "8"

local TYPES = {
  [400] = "invalid_request_error", [401] = "invalid_request_error", [403] = "permission_error",
  [404] = "invalid_request_error", [405] = "invalid_request_error", [413] = "invalid_request_error",
  [429] = "rate_limit_error",
}
-- What stands where no service gave a reason: the edge itself refused the request.
local CODES = {
  [401] = "invalid_api_key", [404] = "unknown_url", [405] = "method_not_allowed", [408] = "deadline_exceeded",
  [413] = "request_too_large", [429] = "rate_limited", [503] = "unavailable", [504] = "deadline_exceeded",
}
local MESSAGES = {
  [404] = "There is nothing at this URL. Check the path and the method.",
  [408] = "The request took too long.",
  [413] = "The request body is too large. The limit is @max_request_bytes@ bytes.",
  [503] = "The service is not available now. Try again in a moment.",
  [504] = "The service did not answer in time.",
}
-- OpenAI's clients test for these codes.
local OPENAI_CODES = {
  PROMPT_TOO_LONG = "context_length_exceeded", CREDENTIAL_INVALID = "invalid_api_key", MODEL_NOT_FOUND = "model_not_found",
}

local function percent_decode(text)
  return (string.gsub(text, "%%(%x%x)", function(hex) return string.char(tonumber(hex, 16)) end))
end

-- Gives a JSON string literal. Bytes that are not ASCII are kept: the text is UTF-8 already.
local function quote(text)
  local escaped = string.gsub(text, '[%c"\\\127]', function(char)
    return string.format("\\u%04x", string.byte(char))
  end)
  return '"' .. escaped .. '"'
end

-- Gives the value of the first string member of that name in a JSON text, still escaped, with its quotes.
local function json_string(text, name)
  local _, start = string.find(text, '"' .. name .. '"%s*:%s*"')
  if not start then return nil end
  local at = start + 1
  while at <= #text do
    local char = string.sub(text, at, at)
    if char == "\\" then
      at = at + 2
    elseif char == '"' then
      return string.sub(text, start, at)
    else
      at = at + 1
    end
  end
  return nil
end

local function unquote(literal)
  return literal and string.sub(literal, 2, -2)
end

local function openai_error(status, text)
  local is_json = string.find(text, "^%s*{")
  local message = is_json and json_string(text, "message")
  if not message then
    local plain = not is_json and not string.find(text, "^%s*<") and string.match(text, "^%s*(.-)%s*$") or ""
    message = quote(MESSAGES[status] or (plain ~= "" and plain) or ("The request failed with HTTP status " .. status .. "."))
  end
  local reason = is_json and unquote(json_string(text, "reason"))
  local code = reason and (OPENAI_CODES[reason] or string.lower(reason)) or CODES[status]
  return '{"error":{"message":' .. message .. ',"type":"' .. (TYPES[status] or "server_error") .. '","param":null,"code":'
    .. (code and quote(code) or "null") .. "}}"
end

function envoy_on_request(handle)
  local path = string.match(handle:headers():get(":path") or "", "^[^?#]*")
  if string.find(path, OPENAI_PATHS) or path == "/ask" then
    handle:streamInfo():dynamicMetadata():set("redoma", "openai", true)
  end
end

function envoy_on_response(handle)
  local headers = handle:headers()
  local prepared = headers:get("redoma-openai-error")
  headers:remove("redoma-openai-error")
  local status = tonumber(headers:get(":status"))
  local redoma = handle:streamInfo():dynamicMetadata():get("redoma")
  local openai = redoma and redoma["openai"]
  if not openai and headers:get("grpc-status") then
    -- A refusal of a grpc-web call comes with its HTTP status, and its clients read no further than that.
    headers:replace(":status", "200")
    -- Envoy has no gRPC status for a body past its limit.
    if headers:get("grpc-status") == UNKNOWN and headers:get("grpc-message") == "Payload Too Large" then
      headers:replace("grpc-status", RESOURCE_EXHAUSTED)
      headers:replace("grpc-message", MESSAGES[413])
    end
  end
  if status < 400 or not openai then return end
  -- Before the body is asked for: later is too late for the edge's own answers.
  headers:replace("content-type", "application/json")
  local body = handle:body(true)
  local trailers = handle:trailers()
  if trailers then
    prepared = prepared or trailers:get("redoma-openai-error")
    trailers:remove("redoma-openai-error")
  end
  local text = body:getBytes(0, math.min(body:length(), LARGEST_ERROR_BODY))
  if prepared then
    body:setBytes(percent_decode(prepared))
  elseif not string.find(text, '^%s*{%s*"error"%s*:%s*{') then
    body:setBytes(openai_error(status, text))
  end
end

// The calls to the server that this page came from.

let key = sessionStorage.getItem("key") ?? "";

/** Keep an API key until the tab is closed. */
export function keepKey(given) {
  key = given;
  sessionStorage.setItem("key", given);
}

/** What the server refuses, with its status. */
export class ApiError extends Error {
  constructor(message, status) {
    super(message);
    this.status = status;
  }
}

async function call(path, options = {}) {
  const headers = key ? {Authorization: `Bearer ${key}`} : {};
  let answer;
  try {
    answer = await fetch(path, {...options, headers});
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ApiError("The server cannot be reached. Is it still running?", 0);
  }
  if (answer.ok) return answer;
  const body = await answer.json().catch(() => ({}));
  throw new ApiError(body.error?.message ?? `The server answered with status ${answer.status}.`, answer.status);
}

/** A file or a list as JSON. */
export async function load(path) {
  return (await call(path)).json();
}

/** Yield the chunks of a chat completion as they come. */
export async function* stream(body, signal) {
  const answer = await call("v1/chat/completions", {method: "POST", body: JSON.stringify(body), signal});
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let held = "";
  for (;;) {
    const {value, done} = await reader.read().catch(error => {
      if (error.name === "AbortError") throw error;
      throw new ApiError("The connection broke off.", 0);
    });
    const lines = (held + (value ?? "")).split(/\r?\n/);
    held = lines.pop();
    for (const line of lines) {
      if (!line.startsWith("data:")) continue; // comments keep the connection open
      const data = line.slice(5).trim();
      if (data === "[DONE]") return;
      const chunk = JSON.parse(data);
      if (chunk.error) throw new ApiError(chunk.error.message, 0);
      yield chunk;
    }
    if (done) throw new ApiError("The answer ended too early.", 0);
  }
}

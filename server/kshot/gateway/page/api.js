// Calls of the server: JSON, streams of lines, and errors in words.

const KEY = "kshot-key";

export class ServerError extends Error {
  constructor(status, document) {
    const error = document?.error ?? {};
    super(words(error) || `The server answered ${status}.`);
    this.status = status;
    this.code = error.status ?? "";
    this.retryable = status === 503 || status === 429;
  }
}

export class GoneError extends Error {
  constructor() {
    super("The server does not answer.");
  }
}

export function setKey(text) {
  sessionStorage.setItem(KEY, text);
}

/** Whether calls carry a key. */
export const keyed = () => Boolean(sessionStorage.getItem(KEY));

export async function call(method, path, { body, signal } = {}) {
  const began = performance.now();
  const response = await request(method, path, body, signal);
  const answer = await response.json();
  return { answer, milliseconds: performance.now() - began, server: serverMilliseconds(response) };
}

export async function download(path) {
  return (await request("GET", path)).blob();
}

/** Adapts; `tell` gets each message of progress. Returns the result. */
export async function adapt(body, signal, tell) {
  const began = performance.now();
  const response = await request("POST", "/v1/adapted_models:stream", body, signal);
  for await (const line of lines(response.body)) {
    if (line.error) throw new ServerError(line.error.code, line);
    if (line.progress) tell(line.progress);
    if (line.result) return { ...line.result, milliseconds: performance.now() - began };
  }
  throw new GoneError();
}

async function request(method, path, body, signal) {
  const headers = {};
  const key = sessionStorage.getItem(KEY);
  if (key) headers.Authorization = `Bearer ${key}`;
  if (body !== undefined) headers["Content-Type"] = "application/json";
  let response;
  try {
    response = await fetch(path, { method, headers, signal, body: body && JSON.stringify(body) });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new GoneError();
  }
  if (!response.ok) throw new ServerError(response.status, await response.json().catch(() => null));
  return response;
}

async function* lines(stream) {
  const reader = stream.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  try {
    for (;;) {
      const { value, done } = await reader.read();
      if (done) return;
      const parts = (rest + value).split("\n");
      rest = parts.pop();
      for (const part of parts) yield JSON.parse(part);
    }
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new GoneError();
  } finally {
    reader.cancel().catch(() => {});
  }
}

function words(error) {
  const violations = (error.details ?? []).flatMap((detail) => detail.fieldViolations ?? []);
  if (!violations.length) return error.message;
  return violations.map(({ field, description }) => `${field}: ${description}`).join(". ");
}

function serverMilliseconds(response) {
  const parts = (response.headers.get("Server-Timing") ?? "").matchAll(/dur=([\d.]+)/g);
  return [...parts].reduce((sum, [, text]) => sum + Number(text), 0);
}

// The service, asked from the page: requests, the key, errors in words, and a request's curl.

const TITLES = {
  0: "The service cannot be reached",
  401: "This service needs its API key",
  404: "Not loaded",
  413: "Too much text",
  422: "The service cannot take this",
  429: "The service is busy",
  503: "The service is not ready",
  504: "The answer would have come too late",
};

/** An answer that is an error, or none at all: status 0. */
export class ServiceError extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
    this.title = TITLES[status] ?? `The service failed (${status})`;
  }
}

let key = "";

/** Send this key from now on. It is kept here and nowhere else. */
export function useKey(given) {
  key = given.trim();
}

/** POST `content`, or GET without: the parsed answer, and the milliseconds of each stage by its Server-Timing. */
export async function ask(path, content) {
  const answer = await send(path, content);
  return { content: await answer.json(), stages: timing(answer.headers.get("server-timing") ?? "") };
}

/** GET plain text. */
export async function read(path) {
  return (await send(path)).text();
}

/** The shell command that asks the same; the key stays out of it. */
export function curl(path, content) {
  const authorization = key ? ' -H "Authorization: Bearer $UNDERSTUDY_API_KEY"' : "";
  return `curl ${quote(new URL(path, document.baseURI).href)}${authorization} -d ${quote(JSON.stringify(content))}`;
}

function quote(word) {
  return `'${word.replaceAll("'", `'\\''`)}'`;
}

async function send(path, content) {
  const headers = key ? { authorization: `Bearer ${key}` } : {};
  const body = content && JSON.stringify(content);
  let answer;
  try {
    answer = await fetch(path, { method: body ? "POST" : "GET", headers, body, cache: "no-store" });
  } catch {
    throw new ServiceError(0, "Is it still running, and the network there?");
  }
  if (!answer.ok) throw new ServiceError(answer.status, await explain(answer));
  return answer;
}

async function explain(answer) {
  if (answer.status === 401) return key ? "It refused the one that was given." : "Give it below.";
  const told = await answer.json().catch(() => null); // a proxy in between may answer in HTML
  const message = sentence(told?.error?.message ?? `status ${answer.status}, without a reason`);
  const seconds = answer.headers.get("retry-after");
  return answer.status === 429 && seconds ? `${message} Try again in ${seconds} s.` : message;
}

/** A capital at the start and a full stop at the end. */
function sentence(words) {
  return words.charAt(0).toUpperCase() + words.slice(1) + (/[.!?]$/.test(words) ? "" : ".");
}

function timing(header) {
  return Object.fromEntries([...header.matchAll(/([\w-]+);dur=([\d.]+)/g)].map(([, stage, ms]) => [stage, Number(ms)]));
}

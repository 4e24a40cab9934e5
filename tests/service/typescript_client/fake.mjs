// A small server that answers as a test says, and remembers what it was asked.

import { createServer } from "node:http";

/**
 * Starts a server. Each request is answered by the next of `answers`, the last one again and again; an answer is a
 * function of the request and the response.
 */
export async function serve(t, ...answers) {
  const requests = [];
  const server = createServer(async (request, response) => {
    let body = "";
    for await (const part of request) body += part;
    const { method, url, headers } = request;
    const seen = { method, url, headers, at: performance.now(), body: body && JSON.parse(body) };
    requests.push(seen);
    await (answers[requests.length - 1] ?? answers.at(-1))(response, seen);
  });
  await new Promise((resolve) => server.listen(0, "127.0.0.1", resolve));
  t.after(() => {
    server.closeAllConnections();
    server.close();
  });
  return { url: `http://127.0.0.1:${server.address().port}`, requests };
}

export function json(status, body, headers = {}) {
  return (response) => response.writeHead(status, { "Content-Type": "application/json", ...headers }).end(JSON.stringify(body));
}

export function refuse(status, code, { details = {}, ...headers } = {}) {
  return json(status, { error: `It is ${code}`, code, details }, headers);
}

/** Breaks the connection before an answer. */
export function hangUp(response) {
  response.destroy();
}

/** Streams events, then ends or breaks off: `[name, data, id]`, or a text as it is. */
export function stream(events, { breaks = false, stays = false } = {}) {
  return (response) => {
    response.writeHead(200, { "Content-Type": "text/event-stream; charset=utf-8" });
    for (const event of events) response.write(typeof event === "string" ? event : lines(...event));
    if (breaks) setTimeout(() => response.destroy(), 50);
    else if (!stays) response.end();
  };
}

function lines(name, data, id) {
  return `${id === undefined ? "" : `id: ${id}\n`}event: ${name}\ndata: ${JSON.stringify(data)}\n\n`;
}

/** All that an iterable yields, and what it throws. */
export async function collect(iterable) {
  const found = [];
  try {
    for await (const one of iterable) found.push(one);
  } catch (error) {
    return { found, error };
  }
  return { found };
}

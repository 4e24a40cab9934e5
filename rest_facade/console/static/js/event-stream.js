// Reads a stream of events of this service, where an EventSource cannot send the request.

const splitField = (line) => [line.slice(0, line.indexOf(":")), line.slice(line.indexOf(":") + 2)];

/** Yields each event of a body as `type` and `data`, which is JSON. Throws TypeError where it breaks off. */
export async function* readEvents(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      rest += value;
      const events = rest.split("\n\n");
      rest = events.pop();
      for (const event of events) {
        const fields = new Map(event.split("\n").map(splitField));
        // A line that begins with a colon is a sign of life.
        if (fields.has("data")) yield { type: fields.get("event"), data: JSON.parse(fields.get("data")) };
      }
    }
  } finally {
    // A body that has failed cannot be cancelled, and says so a second time.
    reader.cancel().catch(() => undefined);
  }
}

/**
 * Yields the events of a body until it ends. Throws CONNECTION_FAILED where it breaks off, or is silent for
 * too long.
 *
 * @param {ReadableStream<Uint8Array>} body
 * @param {number} silenceMs
 * @returns {AsyncGenerator<StreamPart, void, undefined>}
 */
export function readEvents(body: ReadableStream<Uint8Array>, silenceMs: number): AsyncGenerator<StreamPart, void, undefined>;
/** Makes events of text that comes in pieces. */
export class EventParser {
    /**
     * Yields what is complete.
     *
     * @param {string} text
     * @returns {Generator<StreamPart, void, undefined>}
     */
    feed(text: string): Generator<StreamPart, void, undefined>;
    #private;
}
/**
 * One event; or a sign of life, which has no type.
 */
export type StreamPart = {
    type: string;
    id?: string;
    data: string;
    retryMs?: number;
};

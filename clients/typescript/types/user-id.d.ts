/**
 * The same UUID for the same id, in every client: version 5 of `https://example.com/users/ID` in the
 * namespace of URLs. Needs `crypto.subtle`, which browsers have on https and localhost.
 *
 * @param {string} id
 * @returns {Promise<string>}
 */
export function userIdFor(id: string): Promise<string>;

/**
 * The same UUID for the same id, in every client: version 5 of the id, in the namespace that is version 5
 * of `namespace` in that of URLs. A UUID stays what it is, in lower case. With the issuer of your JSON web
 * tokens as the namespace, it is the user that the service makes of their claim.
 *
 * Needs `crypto.subtle`, which browsers have on https and localhost.
 *
 * @param {string} id
 * @param {string} [namespace]
 * @returns {Promise<string>}
 */
export function userIdFor(id: string, namespace?: string): Promise<string>;

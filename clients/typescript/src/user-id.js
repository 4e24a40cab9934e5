/** Makes the UUID that the service wants of a user id of your own. */

/** RFC 9562, section 6.6: the namespace of URLs. */
const URL_NAMESPACE = "6ba7b811-9dad-11d1-80b4-00c04fd430c8";

/**
 * The same UUID for the same id, in every client: version 5 of `https://example.com/users/ID` in the
 * namespace of URLs. Needs `crypto.subtle`, which browsers have on https and localhost.
 *
 * @param {string} id
 * @returns {Promise<string>}
 */
export async function userIdFor(id) {
  const namespace = (URL_NAMESPACE.replaceAll("-", "").match(/../g) ?? []).map((pair) => parseInt(pair, 16));
  const name = new TextEncoder().encode(`https://example.com/users/${id}`);
  const hash = await crypto.subtle.digest("SHA-1", new Uint8Array([...namespace, ...name]));
  const bytes = new Uint8Array(hash, 0, 16);
  // The version is 5, the variant that of the RFC.
  bytes[6] = ((bytes[6] ?? 0) & 0x0f) | 0x50;
  bytes[8] = ((bytes[8] ?? 0) & 0x3f) | 0x80;
  const hex = [...bytes].map((byte) => byte.toString(16).padStart(2, "0")).join("");
  return hex.replace(/^(.{8})(.{4})(.{4})(.{4})/, "$1-$2-$3-$4-");
}

/** Makes the UUID that the service wants of a user id of your own. */

/** RFC 9562, section 6.6: the namespace of URLs. */
const URL_NAMESPACE = "6ba7b811-9dad-11d1-80b4-00c04fd430c8";

const UUID = /^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/;

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
export async function userIdFor(id, namespace = "https://example.com/users") {
  const lower = id.toLowerCase();
  return UUID.test(lower) ? lower : uuid5(await uuid5(URL_NAMESPACE, namespace), id);
}

/**
 * @param {string} namespace
 * @param {string} name
 * @returns {Promise<string>}
 */
async function uuid5(namespace, name) {
  const prefix = (namespace.replaceAll("-", "").match(/../g) ?? []).map((pair) => parseInt(pair, 16));
  const named = new Uint8Array([...prefix, ...new TextEncoder().encode(name)]);
  const bytes = new Uint8Array(await crypto.subtle.digest("SHA-1", named), 0, 16);
  // The version is 5, the variant that of the RFC.
  bytes[6] = ((bytes[6] ?? 0) & 0x0f) | 0x50;
  bytes[8] = ((bytes[8] ?? 0) & 0x3f) | 0x80;
  const hex = [...bytes].map((byte) => byte.toString(16).padStart(2, "0")).join("");
  return hex.replace(/^(.{8})(.{4})(.{4})(.{4})/, "$1-$2-$3-$4-");
}

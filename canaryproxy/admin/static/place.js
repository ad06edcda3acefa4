// Where the page is: at the root for the only service, or under services/NAME/ for one of several.

const { root = "" } = document.documentElement.dataset;

/** The name of the service; null if the proxy has only one, without a name. */
export const SERVICE = root === "" ? null : decodeURIComponent(location.pathname.split("/").at(-2));

/** An address of the whole proxy, such as v1/config, as seen from the page. */
export const ofProxy = (path) => `${root}${path}`;

/** An address of the service's part of the API, such as v1/release, as seen from the page. */
export const ofService = (path) =>
  SERVICE === null ? path : ofProxy(path.replace(/^v1\//, `v1/services/${encodeURIComponent(SERVICE)}/`));

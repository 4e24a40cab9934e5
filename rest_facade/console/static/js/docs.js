// The API docs: Swagger UI over this service's own document, and nothing of anybody else's.

import { key } from "./key.js";

const place = document.getElementById("docs");

const SECRETS = new Set(["authorization", "x-api-key"]);

/** Has the commands of curl without keys: they are shown, and copied to who knows where. */
const hideKeys = () => ({
  wrapComponents: {
    curl:
      (Curl, { React }) =>
      ({ request, ...others }) =>
        React.createElement(Curl, { ...others, request: request?.update("headers", hideIn) }),
  },
});

const hideIn = (headers) => headers?.map((value, name) => (SECRETS.has(name.toLowerCase()) ? hide(value) : value));
const hide = (value) => `${/^bearer /i.test(value) ? "Bearer " : ""}YOUR_KEY`;

const ui = SwaggerUIBundle({
  domNode: place,
  url: new URL(place.dataset.document, document.baseURI).href,
  presets: [SwaggerUIBundle.presets.apis],
  plugins: [hideKeys],
  layout: "BaseLayout",
  deepLinking: false,
  docExpansion: "list",
  defaultModelsExpandDepth: 0,
  // The badge would send the document's address to a validator elsewhere.
  validatorUrl: null,
  persistAuthorization: false,
  queryConfigEnabled: false,
  tryItOutEnabled: true,
  onComplete: () => key() && ui.preauthorizeApiKey("bearer", key()),
});

const dark = matchMedia("(prefers-color-scheme: dark)");

function showTheme() {
  const { theme } = document.documentElement.dataset;
  document.documentElement.classList.toggle("dark-mode", theme === "dark" || (theme === "system" && dark.matches));
}

document.addEventListener("console:theme", showTheme);
showTheme();

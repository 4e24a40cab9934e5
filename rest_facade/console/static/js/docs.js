// The API docs: Swagger UI over this service's own document, and nothing of anybody else's.

import { key } from "./key.js";

const place = document.getElementById("docs");

const ui = SwaggerUIBundle({
  domNode: place,
  url: new URL(place.dataset.document, document.baseURI).href,
  presets: [SwaggerUIBundle.presets.apis],
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

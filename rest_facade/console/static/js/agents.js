// The list of agents: its page is in the address.

// Modules run before htmx looks at the page.
document.getElementById("agents").setAttribute("hx-get", `console/parts/agents${location.search}`);

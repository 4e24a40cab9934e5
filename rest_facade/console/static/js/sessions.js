// The list of sessions: its filters are the page's address, so that a link to it can be shared.

const form = document.getElementById("filters");
const given = new URLSearchParams(location.search);

for (const field of form.elements) {
  if (field.name && given.has(field.name)) field.value = given.get(field.name);
}

// An address has no empty filters.
form.addEventListener("formdata", ({ formData }) => {
  for (const [name, value] of [...formData]) {
    if (!value.trim()) formData.delete(name);
  }
});

// Modules run before htmx looks at the page.
document.getElementById("sessions").setAttribute("hx-get", `console/parts/sessions${location.search}`);

// node imports a file by its whole name.
export default { output: { path: "hey", module: { extension: ".ts" } } };

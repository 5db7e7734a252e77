// The elements of the page by their id.

/** @param {string} id @returns {HTMLElement} */
export const element = (id) => document.getElementById(id);

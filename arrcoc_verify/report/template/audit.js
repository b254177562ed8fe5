// Filters the table of claims. The page is whole without it; it reads no data but the rows' own.
(() => {
  const form = document.querySelector("form.filter");
  const rows = [...document.querySelectorAll("tr.claim")];
  if (!form || !rows.length) return;
  const words = rows.map((row) => row.textContent.toLowerCase());
  const show = () => {
    const chosen = new Set([...form.querySelectorAll("input:checked")].map((box) => box.value));
    const text = form.elements.text.value.trim().toLowerCase();
    let many = 0;
    rows.forEach((row, i) => {
      row.hidden = !(chosen.has(row.dataset.outcome) && words[i].includes(text));
      many += row.hidden ? 0 : 1;
    });
    document.querySelectorAll("table.claims tbody").forEach((body) => {
      body.hidden = !body.querySelector("tr.claim:not([hidden])");
    });
    form.querySelector("output").textContent = `${many} of ${rows.length}`;
  };
  form.addEventListener("input", show);
  form.addEventListener("submit", (event) => event.preventDefault());
  form.hidden = false;
  show();
})();

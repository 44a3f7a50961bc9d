// A click on a head sorts by its column's keys, a second one turns the order around.
document.querySelectorAll("table.sortable thead button").forEach(function (button) {
  button.addEventListener("click", function () {
    var head = button.closest("th"), table = button.closest("table"), body = table.tBodies[0];
    var column = Array.prototype.indexOf.call(head.parentNode.children, head);
    var sign = head.getAttribute("aria-sort") === "ascending" ? -1 : 1;
    table.querySelectorAll("thead th").forEach(function (th) { th.removeAttribute("aria-sort"); });
    head.setAttribute("aria-sort", sign > 0 ? "ascending" : "descending");
    Array.prototype.slice.call(body.rows).sort(function (a, b) {
      var x = a.cells[column].dataset.key, y = b.cells[column].dataset.key;
      var m = parseFloat(x), n = parseFloat(y);
      return sign * (isNaN(m) || isNaN(n) ? x.localeCompare(y) : m - n);
    }).forEach(function (row) { body.appendChild(row); });
  });
});

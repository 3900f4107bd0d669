const byId = (id) => document.getElementById(id);

async function showHealth() {
  let text = "does not answer", ok = false;
  try {
    const response = await fetch("health");
    const health = await response.json();
    ok = response.ok;
    text = `version ${health.version}: ${health.status}`;
  } catch { /* the text above says it */ }
  byId("health").textContent = text;
  byId("health").className = ok ? "" : "bad";
}

async function showItems() {
  const response = await fetch("api/items");
  if (!response.ok) return;
  const { count, items } = await response.json();
  byId("count").textContent = count;
  byId("items").replaceChildren(...items.map((item) => {
    const line = document.createElement("li");
    const name = document.createElement("span");
    const time = document.createElement("time");
    name.textContent = item.name;
    time.textContent = new Date(item.created_at).toLocaleString();
    line.append(name, time);
    return line;
  }));
}

byId("add").addEventListener("submit", async (event) => {
  event.preventDefault();
  const response = await fetch("api/items", {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify({ name: byId("name").value }),
  });
  if (response.ok) byId("name").value = "";
  await refresh();
});

const refresh = () => Promise.allSettled([showHealth(), showItems()]);
refresh();
setInterval(refresh, 3000);

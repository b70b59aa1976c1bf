// What pages do beyond links and forms. Everything here is an enhancement.
(() => {
  const $ = (selector, root = document) => root.querySelector(selector);
  const all = (selector, root) => [
    ...(root.matches?.(selector) ? [root] : []),
    ...root.querySelectorAll(selector),
  ];

  // ---- Dialog: <a href data-dialog> opens its page's .sheet in the one <dialog>.
  const frame = $("#dialog-frame");
  let opener = null;

  const openerOf = (element) => {
    const menu = element.closest("[popover]");
    return menu ? $(`[popovertarget="${CSS.escape(menu.id)}"]`) || element : element;
  };
  const plainClick = (event) =>
    event.button === 0 && !event.metaKey && !event.ctrlKey && !event.shiftKey && !event.altKey;

  document.addEventListener("click", (event) => {
    const link = event.target.closest("a[data-dialog]");
    if (!link || !frame || !window.htmx || !plainClick(event)) return;
    event.preventDefault();
    if (!frame.open) opener = openerOf(link);
    link.closest("[popover]")?.hidePopover();
    htmx.ajax("GET", link.href, { target: "#dialog", swap: "innerHTML", source: "#dialog" });
  });
  document.addEventListener("click", (event) => {
    const link = event.target.closest("[data-close]");
    if (!link || !frame?.open || !frame.contains(link) || !plainClick(event)) return;
    event.preventDefault();
    frame.close();
  });
  document.addEventListener("htmx:afterSwap", (event) => {
    if (!frame || !frame.contains(event.target)) return;
    const filled = $("#dialog").textContent.trim() !== "";
    if (filled && !frame.open) {
      opener ||= document.activeElement;
      $("#dialog-problems").replaceChildren();
      frame.showModal();
    } else if (!filled && frame.open) {
      frame.close();
      return;
    }
    const start = $("[aria-invalid=true], [autofocus]", frame);
    if (start) start.focus();
    frame.scrollTop = 0;
  });
  document.addEventListener("close-dialog", () => frame?.open && frame.close());
  frame?.addEventListener("close", () => {
    // Told a frame late: the next answer may have opened it again by then.
    if (frame.open) return;
    $("#dialog").replaceChildren();
    $("#dialog-problems").replaceChildren();
    // The opener may have been swapped away by the answer.
    const back = opener?.isConnected ? opener : opener?.id && $(`#${CSS.escape(opener.id)}`);
    (back || $("#main"))?.focus();
    opener = null;
  });

  // A dialog's page that was opened by itself has nothing to be closed: its form leaves it.
  for (const form of document.querySelectorAll(".sheet-page form[hx-post]")) form.removeAttribute("hx-post");

  // ---- Focus: what is swapped away while it has the focus hands it on.
  let focused = null;
  document.addEventListener("focusin", (event) => {
    focused = event.target;
  });
  document.addEventListener("htmx:afterSwap", () => {
    if (!focused || focused.isConnected || document.activeElement !== document.body) return;
    const heir = (focused.id && $(`#${CSS.escape(focused.id)}`)) || $("#main");
    heir?.focus({ preventScroll: true });
  });

  // ---- Menus: arrows walk through an open one.
  document.addEventListener("keydown", (event) => {
    const menu = event.target.closest?.(".menu");
    const button = event.target.closest?.("[popovertarget]");
    if (!["ArrowDown", "ArrowUp", "Home", "End"].includes(event.key)) return;
    if (button && event.key === "ArrowDown") {
      const target = document.getElementById(button.getAttribute("popovertarget"));
      if (!target?.classList.contains("menu")) return;
      event.preventDefault();
      target.showPopover({ source: button });
      $(".menu-item", target)?.focus();
      return;
    }
    if (!menu) return;
    event.preventDefault();
    const items = all(".menu-item", menu);
    const here = items.indexOf(document.activeElement);
    const next = { ArrowDown: here + 1, ArrowUp: here - 1, Home: 0, End: -1 }[event.key];
    items.at(next % items.length)?.focus();
  });

  // ---- Copy, dismiss, choose all, submit on change, local times.
  document.addEventListener("click", async (event) => {
    const button = event.target.closest("[data-copy]");
    if (button) {
      await navigator.clipboard?.writeText(button.dataset.copy);
      const use = $("use", button);
      const icon = use.getAttribute("href");
      button.dataset.copied = "";
      use.setAttribute("href", icon.replace("#copy", "#check"));
      say("Copied.");
      setTimeout(() => {
        delete button.dataset.copied;
        use.setAttribute("href", icon.replace("#check", "#copy"));
      }, 1600);
    }
    event.target.closest("[data-dismiss]")?.closest(".note")?.remove();
  });
  document.addEventListener("change", (event) => {
    const box = event.target;
    if (box.matches("[data-choose-all]")) {
      const table = box.closest("table");
      for (const each of table.querySelectorAll("tbody input[type=checkbox]:enabled")) {
        each.checked = box.checked;
      }
    }
    if (box.matches("[data-submit]")) box.form.requestSubmit();
    countChosen();
  });
  const countChosen = () => {
    for (const button of document.querySelectorAll("[data-needs-choice]")) {
      const count = button.form?.elements
        ? [...button.form.elements].filter((e) => e.type === "checkbox" && e.name && e.checked).length
        : 0;
      button.disabled = count === 0;
      const label = $("[data-count]", button);
      if (label) label.textContent = count ? ` (${count})` : "";
    }
  };
  const local = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "short" });
  const exact = new Intl.DateTimeFormat(undefined, { dateStyle: "full", timeStyle: "long" });
  const enhance = (root) => {
    for (const time of all("time[datetime]", root)) {
      const when = new Date(time.dateTime);
      if (Number.isNaN(when.getTime())) continue;
      time.title = exact.format(when);
      if (!time.hasAttribute("data-keep")) time.textContent = local.format(when);
    }
    countChosen();
  };
  const say = (text) => {
    const region = $("#said");
    if (region) region.textContent = text;
  };

  // ---- Uploads: a form with a <progress> shows how far it is.
  document.addEventListener("htmx:xhr:progress", (event) => {
    const form = event.target.closest("form");
    const bar = form && $("progress[data-upload]", form);
    if (!bar || !event.detail.lengthComputable) return;
    const { loaded, total } = event.detail;
    bar.closest("[data-upload-state]").hidden = false;
    bar.max = total;
    bar.value = loaded;
    const text = $("[data-upload-text]", form);
    if (!text) return;
    const mib = (bytes) => (bytes / 1048576).toLocaleString(undefined, { maximumFractionDigits: 1 });
    text.textContent =
      loaded < total
        ? `${mib(loaded)} of ${mib(total)} MiB (${Math.floor((loaded / total) * 100)} %)`
        : "Uploaded. The image is being checked.";
  });
  addEventListener("beforeunload", (event) => {
    if ($("form.htmx-request:not([data-answered]) progress[data-upload]")) event.preventDefault();
  });
  // Until the answer is there, all can be lost; then it is the answer that leads away.
  document.addEventListener("htmx:beforeRequest", (event) => delete event.target.dataset.answered);
  document.addEventListener("htmx:beforeOnLoad", (event) => (event.target.dataset.answered = ""));

  // ---- Problems: answers that htmx does not swap become a sentence.
  const sentences = {
    0: "The panel cannot be reached. Check your connection and try again.",
    401: "You are signed out. Sign in again, then repeat this.",
    403: "Your role on this account does not allow this.",
    404: "This no longer exists, or it is not in this account. Reload the page to see what is there.",
    429: "That was too often in a short time. Wait a while, then try again.",
    503: "The panel is not available at the moment. Nothing was changed; try again shortly.",
  };
  const sentenceFor = (xhr) => {
    const status = xhr?.status || 0;
    const page = new DOMParser().parseFromString(xhr?.responseText || "", "text/html");
    const problem = $("[data-problem]", page);
    return (
      problem?.dataset.problem ||
      problem?.textContent.trim().replace(/\s+/g, " ") ||
      sentences[status] ||
      `The panel could not do this (error ${status}). Nothing was changed as far as it knows; reload the page to see.`
    );
  };
  const showProblem = (text, link) => {
    const region = frame?.open ? $("#dialog-problems") : $("#problems");
    const template = $("#problem");
    if (!region || !template) return;
    const note = template.content.cloneNode(true);
    $("p", note).textContent = text;
    if (link) $("p", note).append(" ", link);
    region.replaceChildren(note);
    region.scrollIntoView({ block: "nearest" });
  };
  const isQuiet = (event) => event.detail.elt?.closest?.("[data-quiet]");
  document.addEventListener("htmx:responseError", (event) => {
    if (!isQuiet(event)) showProblem(sentenceFor(event.detail.xhr));
  });
  for (const name of ["htmx:sendError", "htmx:timeout"]) {
    document.addEventListener(name, (event) => {
      if (!isQuiet(event)) showProblem(sentences[0]);
    });
  }
  document.addEventListener("htmx:beforeRequest", (event) => {
    if (!isQuiet(event)) $("#problems")?.replaceChildren();
  });
  // News must not close an open menu: they wait until it is closed, and no item moves under the hand.
  document.addEventListener("htmx:beforeSwap", (event) => {
    const asker = event.detail.requestConfig.elt;
    const menu = asker.closest("[data-quiet]") && $(":popover-open", event.target);
    if (!menu) return;
    event.detail.shouldSwap = false;
    menu.addEventListener("toggle", () => asker.dispatchEvent(new Event("menu-closed")), { once: true });
  });
  // What was typed since an answer was asked for stays: that is asked for in a moment.
  document.addEventListener("htmx:beforeSwap", (event) => {
    const { elt, parameters } = event.detail.requestConfig;
    const box = elt.matches("form[role=search]") && $("input[type=search]", elt);
    if (!box || !event.target.contains(box)) return;
    if (parameters[box.name] !== box.value) event.detail.shouldSwap = false;
  });
  // A poll must not take a half-filled form away when the session has ended.
  document.addEventListener("htmx:beforeOnLoad", (event) => {
    const target = isQuiet(event) && event.detail.xhr.getResponseHeader("HX-Redirect");
    if (!target) return;
    event.preventDefault();
    isQuiet(event).removeAttribute("hx-trigger");
    const link = document.createElement("a");
    link.href = target;
    link.textContent = "Sign in again";
    showProblem("You have been signed out.", link);
  });

  document.addEventListener("htmx:load", (event) => enhance(event.detail.elt));
  if (document.readyState === "loading") {
    document.addEventListener("DOMContentLoaded", () => enhance(document.body));
  } else enhance(document.body);
})();

"""How the page looks, and what it does in the browser by itself: ticks, opacity, size and downloads."""

CSS = '''
.cv-head { display: flex; flex-wrap: wrap; align-items: baseline; gap: 2px 14px; }
.cv-head h1 { font-size: 19px; font-weight: 650; margin: 0; }
.cv-head .cv-model { font-size: 13px; opacity: .75; overflow-wrap: anywhere; }
.cv-caution { font-size: 12px; opacity: .75; margin: 0; }
.cv-empty { min-height: 300px; display: flex; align-items: center; justify-content: center; text-align: center;
  padding: 20px; border: 1px dashed var(--border-color-primary); border-radius: var(--radius-lg);
  color: var(--body-text-color-subdued); }
.cv-view { display: flex; flex-wrap: wrap; gap: 12px; justify-content: center; }
.cv-view figure { margin: 0; min-width: 0; flex: 1 1 260px; }
.cv-frame { overflow: auto; max-height: 56vh; display: flex; border-radius: var(--radius-sm);
  background: var(--background-fill-secondary); }
.cv-stack { position: relative; margin: auto; flex: none; aspect-ratio: var(--w) / var(--h);
  width: min(100%, calc(56vh * var(--w) / var(--h))); }
.cv-frame.cv-large .cv-stack { width: calc(1px * var(--w)); }
.cv-stack img { position: absolute; margin: 0; max-width: none; display: block; }
.cv-stack img.cv-base { inset: 0; width: 100%; height: 100%; }
.cv-fill { opacity: var(--cv-opacity, .35); }
.cv-stack img.cv-off { display: none; }
.cv-stack.cv-focus img[data-mask]:not(.cv-here) { opacity: .08; }
.cv-view figcaption { display: flex; gap: 8px; justify-content: space-between; align-items: center; font-size: 13px;
  padding-top: 4px; overflow-wrap: anywhere; }
.cv-view button.cv-actual { flex: none; font-size: 12px; padding: 1px 8px; cursor: pointer;
  border: 1px solid var(--border-color-primary); border-radius: var(--radius-sm); }
.cv-view button.cv-actual[aria-pressed=true] { background: var(--color-accent); color: #fff; }
#cv-chat mark, .cv-legend mark { display: inline-block; min-width: 20px; padding: 0 6px; border-radius: 9px;
  font-size: 12px; font-weight: 650; line-height: 18px; text-align: center; }
#cv-chat mark { margin: 0 2px; }
#cv-chat .cv-caret { display: inline-block; width: .5em; height: 1em; margin-left: 2px; vertical-align: text-bottom;
  background: currentColor; animation: cv-blink 1s steps(2, start) infinite; }
@keyframes cv-blink { to { visibility: hidden; } }
table.cv-legend { width: 100%; border-collapse: collapse; font-size: 13px; margin: 0; }
table.cv-legend, .cv-legend thead, .cv-legend tbody, .cv-legend tr { border: none; }
.cv-legend th, .cv-legend td { text-align: left; padding: 3px 6px 3px 0; border: none;
  border-bottom: 1px solid var(--border-color-primary); }
.cv-legend th { font-weight: 600; }
.cv-legend td:nth-child(3) { overflow-wrap: anywhere; min-width: 60px; }
.cv-legend td:nth-child(4), .cv-legend td:nth-child(5) { font-variant-numeric: tabular-nums; }
.cv-legend label { white-space: nowrap; }
.cv-downloads { display: flex; flex-wrap: wrap; gap: 6px; align-items: center; padding-top: 10px; font-size: 13px; }
.cv-downloads a { padding: 4px 10px; border: 1px solid var(--border-color-primary); border-radius: var(--radius-sm);
  background: var(--button-secondary-background-fill); color: var(--body-text-color); text-decoration: none;
  cursor: pointer; }
.cv-downloads a:hover { border-color: var(--color-accent); }
.cv-note, .cv-none { font-size: 12px; color: var(--body-text-color-subdued); margin: 4px 0 0; }
.cv-problem { margin: 4px 0 0; font-size: 14px; color: var(--error-text-color, #b91c1c); white-space: pre-line;
  overflow-wrap: anywhere; }
.cv-problem:empty { display: none; }
#cv-problem .cv-problem { padding: 8px 10px; border-radius: var(--radius-sm);
  border: 1px solid var(--error-border-color, #fecaca); background: var(--error-background-fill, #fef2f2); }
.html-container { padding: 0; }
#cv-row { align-items: stretch; flex-wrap: nowrap; }
#cv-row button { min-height: 42px; }
#cv-files [data-testid=upload-text] { flex-direction: row; gap: 6px; min-height: 0; padding: 26px 8px 8px;
  font-size: 14px; line-height: 1.3; }
#cv-files .icon-wrap { width: 20px; height: 20px; margin: 0; }
#cv-files { min-height: 0; }
#cv-files button.upload-container { min-height: 0; }
@media (max-width: 640px) {
  #cv-examples > .gallery { flex-wrap: nowrap; overflow-x: auto; }
  #cv-examples > .gallery > * { flex: none; }
  table.cv-legend { font-size: 12px; }
}
'''

# Events are caught at the document, since Gradio puts new elements in the place of old ones.
HEAD = '''
<meta name="referrer" content="no-referrer">
<script>
(() => {
  const all = selector => [...document.querySelectorAll(selector)];
  const hide = (mask, hidden) => all(`.cv-stack img[data-mask="${mask}"]`)
    .forEach(image => image.classList.toggle('cv-off', hidden));
  const sync = () => {
    const ticks = all('.cv-tick');
    ticks.forEach(tick => hide(tick.dataset.mask, !tick.checked));
    const number = ticks.filter(tick => tick.checked).length;
    all('.cv-all').forEach(box => {
      box.checked = number === ticks.length;
      box.indeterminate = 0 < number && number < ticks.length;
    });
  };
  const opacity = () => document.documentElement.style.getPropertyValue('--cv-opacity') || '0.35';
  window.cvOpacity = value => document.documentElement.style.setProperty('--cv-opacity', value);

  const save = async link => {
    const problem = document.querySelector('.cv-downloads ~ .cv-problem');
    const ticked = all('.cv-tick').filter(tick => tick.checked).map(tick => tick.dataset.mask).join(',');
    problem.textContent = '';
    try {
      const answer = await fetch(`${link.getAttribute('href')}?ticked=${ticked}&opacity=${opacity()}`);
      if (!answer.ok) throw new Error(await answer.text());
      const name = decodeURIComponent(answer.headers.get('content-disposition').split("utf-8''")[1]);
      const saved = document.createElement('a');
      saved.href = URL.createObjectURL(await answer.blob());
      saved.download = name;
      saved.click();
      setTimeout(() => URL.revokeObjectURL(saved.href), 60000);
    } catch (error) {
      problem.textContent = error.message;
    }
  };

  document.addEventListener('change', event => {
    if (event.target.matches('.cv-all')) all('.cv-tick').forEach(tick => { tick.checked = event.target.checked; });
    if (event.target.matches('.cv-all, .cv-tick')) sync();
  });
  document.addEventListener('click', event => {
    const link = event.target.closest('a.cv-download');
    if (link) { event.preventDefault(); save(link); }
    const button = event.target.closest('button.cv-actual');
    if (button) {
      const large = button.closest('figure').querySelector('.cv-frame').classList.toggle('cv-large');
      button.setAttribute('aria-pressed', large);
    }
  });
  const focus = (event, on) => {
    const row = event.target.closest && event.target.closest('.cv-legend tbody tr');
    if (!row) return;
    all('.cv-stack').forEach(stack => {
      const here = stack.querySelectorAll(`img[data-mask="${row.dataset.mask}"]`);
      stack.classList.toggle('cv-focus', on && here.length > 0);
      here.forEach(image => image.classList.toggle('cv-here', on));
    });
  };
  document.addEventListener('mouseover', event => focus(event, true));
  document.addEventListener('mouseout', event => focus(event, false));
})();
</script>
'''

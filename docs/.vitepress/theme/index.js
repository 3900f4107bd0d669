import { useRoute } from 'vitepress'
import DefaultTheme from 'vitepress/theme'
import { nextTick, onMounted, watch } from 'vue'
import './style.css'

export default {
  extends: DefaultTheme,
  // Home page and 404 of the default theme have no main part, which a screen reader looks for.
  setup() {
    const route = useRoute()
    const mark = () => nextTick(() => document.querySelector('.VPHome, .NotFound')?.setAttribute('role', 'main'))
    onMounted(mark)
    watch(() => route.path, mark)
  },
}
